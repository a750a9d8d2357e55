"""Weights shared out over two processes: the same training, the whole model, and a resumed one."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from tiny import tiny_model
from training.test_training import Killed, Losses
from transformers import AutoModelForCausalLM
from two_processes import in_two_processes

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.documents import Pair
from ifguide.corpus.pairs import encode_pairs
from ifguide.methods.dpo import DPO, reference_log_probabilities
from ifguide.objectives import LanguageModeling
from ifguide.training.context import TrainingContext, save_trained
from ifguide.training.fit import train
from ifguide.training.module import DivergedError
from ifguide.training.optimization import Optimization
from ifguide.training.strategies import is_finite, of_lightning
from ifguide.training.trainer import TrainerSettings

ARCHITECTURES = ("gpt_neox", "gpt2", "llama")  # the last two tie the head to the embeddings


def model_for(corpus, architecture):
    small = tiny_model(architecture).config
    torch.manual_seed(0)
    small.vocab_size = corpus.vocabulary
    for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop"):  # of gpt2
        setattr(small, name, 0.0)
    return AutoModelForCausalLM.from_config(small, attn_implementation="sdpa", dtype=torch.float64)


class OneDiverges(LanguageModeling):
    """Its loss is not finite in one process, from the fourth step on."""

    calls = 0

    def forward(self, logits, input_ids, mask=None):
        self.calls += 1
        infinite = self.calls > 3 and dist.get_rank() == 1
        return super().forward(logits, input_ids, mask) + (torch.inf if infinite else 0)


def trained(corpus, folder, settings, architecture, *, objective=None, end=None):
    """Losses, facts and weights; each process is at a different loss, and each gradient is clipped."""
    model, losses = model_for(corpus, architecture), Losses(end)
    facts = train(
        model, objective or LanguageModeling(), Optimization(learning_rate=0.01, batch_size=8, epochs=1, clip=0.1),
        TrainingContext(settings, folder, callbacks=[losses]), blocks=corpus.split("train"), mask=None,
        validation=corpus.split("validation"), seed=0,
    )  # fmt: skip
    return {"losses": losses.found, "facts": facts, "weights": model.state_dict(), "class": type(model).__name__,
            "model": model}  # fmt: skip


def preferring(corpus, folder, trainer):
    """DPO with a divergence from a reference, validation, and the best weights."""
    pairs = [Pair("the cat sat", f" on {n} old mats", f" idiot ate {n}") for n in range(30)]
    encoded = encode_pairs(pairs, corpus.tokenizer, 64)
    model, reference = (model_for(corpus, "gpt_neox") for _ in range(2))
    optim = Optimization(learning_rate=0.003, batch_size=8, epochs=2)
    facts = DPO(optim=optim, kl=0.05, validate_every=2, validation=0.2).train(
        model, reference, encoded, reference_log_probabilities(reference, encoded, batch_size=8),
        TrainingContext(trainer, folder),
    )  # fmt: skip
    return {"facts": facts, "weights": model.state_dict()}


def settings(*, micro_batch_size=4, **options):
    return TrainerSettings(progress=False, micro_batch_size=micro_batch_size, checkpoint_every=2, **options)


def in_fsdp(processes, corpus_folder, folder):
    corpus, found = Corpus(corpus_folder), {}
    fsdp = settings(devices=2, strategy="fsdp")
    for name in ARCHITECTURES:
        found[name] = trained(corpus, folder / name, fsdp, name)
        save_trained(found[name].pop("model"), corpus.tokenizer, folder / name)
    found["preferring"] = preferring(corpus, folder / "preferring", fsdp)
    recomputing = settings(devices=2, strategy="fsdp", gradient_checkpointing=True)
    found["recomputed"] = trained(corpus, folder / "recomputed", recomputing, "llama")
    found["recomputed"].pop("model")
    try:
        trained(corpus, folder / "diverged", settings(devices=2, strategy="ddp"), "gpt_neox", objective=OneDiverges())
    except DivergedError as error:
        found["diverged"] = str(error)
    try:
        trained(corpus, folder / "killed", fsdp, "gpt_neox", end=3)
    except Killed:
        found["resumed"] = trained(corpus, folder / "killed", fsdp, "gpt_neox")
        found["resumed"].pop("model")
    return found


@pytest.fixture(scope="module")
def together(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdp")
    return in_two_processes(in_fsdp, corpus.path, folder), folder


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory, architecture):
    return trained(corpus, tmp_path_factory.mktemp("alone"), settings(micro_batch_size=8), architecture)


def test_it_trains_as_one_process_does(together, alone, architecture):
    """Two micro-batches of one process are one of each of two."""
    for found in together[0]:
        ours = found[architecture]
        assert ours["facts"]["steps"] == alone["facts"]["steps"] > 4
        for name in ("train/loss", "validation/loss"):
            assert ours["facts"][name] == pytest.approx(alone["facts"][name], rel=1e-6)
        for name, value in alone["weights"].items():
            torch.testing.assert_close(ours["weights"][name], value, rtol=1e-6, atol=1e-6)


def test_what_is_saved_is_the_whole_model_under_its_own_names(corpus, together, alone, architecture):
    loaded = AutoModelForCausalLM.from_pretrained(together[1] / architecture)
    assert loaded.config.architectures == [alone["class"]] == [together[0][0][architecture]["class"]]
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, alone["weights"][name], rtol=1e-6, atol=1e-6)
    tied = loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert tied == (architecture != "gpt_neox")


def test_a_killed_training_goes_on_where_it_was(together):
    for found in together[0]:
        whole, resumed = found["gpt_neox"], found["resumed"]
        assert len(resumed["losses"]) == len(whole["losses"]) - 2
        assert resumed["losses"] == whole["losses"][2:]
        assert all(torch.equal(resumed["weights"][name], value) for name, value in whole["weights"].items())


def test_where_one_process_diverges_all_end_and_say_so(together):
    for found in together[0]:
        assert found["diverged"].startswith("the training loss is inf at step 3. Use a smaller learning_rate")


def test_activations_can_be_computed_again(together):
    for found in together[0]:
        np.testing.assert_allclose(found["recomputed"]["losses"], found["llama"]["losses"], rtol=1e-10)


def test_preferences_are_learned_as_by_one_process(corpus, together, tmp_path):
    alone = preferring(corpus, tmp_path, settings(micro_batch_size=8))
    for found in together[0]:
        ours = found["preferring"]
        assert ours["facts"] == {name: pytest.approx(value, rel=1e-6) for name, value in alone["facts"].items()}
        for name, value in alone["weights"].items():
            torch.testing.assert_close(ours["weights"][name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(strategy="fsdp", compile=True), "^compile=true: .*strategy=fsdp"),
        (dict(strategy="fsdp", fused_loss=True), "^fused_loss=true: .*strategy=fsdp"),
        (dict(strategy="fsdp", precision="64-true"), "^precision=64-true: strategy=fsdp computes in 32-true, "),
        (dict(strategy="fsdp_cpu_offload"), "^strategy=fsdp_cpu_offload: .* use fsdp"),
        (dict(strategy=FSDPStrategy()), "^strategy=.* use fsdp"),
        (dict(strategy="dpp"), "^strategy=dpp; known: auto, .*ddp, .*deepspeed_stage_2, .*fsdp"),
        (dict(strategy="deepspeed_stage_3"), "^strategy=deepspeed_stage_3: .* use fsdp"),
        (dict(strategy="deepspeed_stage_2", precision="bf16-mixed"), "^precision=bf16-mixed: DeepSpeed .* 32-true"),
    ],
)
def test_what_does_not_go_with_a_strategy_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainerSettings(**options)


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="deepspeed is installed")
def test_deepspeed_says_what_to_install():
    with pytest.raises(ValueError, match=r"^strategy=deepspeed_stage_2: .*pip install 'ifguide\[deepspeed\]', or use"):
        TrainerSettings(strategy="deepspeed_stage_2")


def test_what_does_not_share_weights_out_has_whole_copies():
    for name in ("fsdp", "deepspeed_stage_2", ModelParallelStrategy()):
        assert of_lightning(name, 2, shares=False) == "ddp" and of_lightning(name, 1, shares=False) == "auto"
    assert of_lightning("ddp", 2, shares=False) == "ddp"
    assert isinstance(of_lightning("fsdp", 2, shares=True), ModelParallelStrategy)
    assert type(settings(strategy="fsdp").inference_trainer().strategy).__name__ == "SingleDeviceStrategy"
    assert is_finite(torch.ones(2)) and not is_finite(torch.tensor([1.0, torch.inf]))
