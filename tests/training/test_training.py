import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from torch import nn

from ifguide.corpus.masks import TokenMask
from ifguide.objectives import LanguageModeling, SuppressedLanguageModeling
from ifguide.objectives.language_modeling import cross_entropy
from ifguide.training.checkpoints import newest_checkpoint
from ifguide.training.context import TrainingContext
from ifguide.training.data import FILLING, BatchOrder, BlockDataset, ExampleDataModule, rows_of_step
from ifguide.training.fit import train
from ifguide.training.module import CausalLanguageModel, DivergedError
from ifguide.training.optimization import Optimization
from ifguide.training.predictions import FrozenCopy
from ifguide.training.trainer import TrainerSettings

CPU = TrainerSettings(micro_batch_size=2, checkpoint_every=3, progress=False)


def optimization(**options):
    return Optimization(**(dict(learning_rate=1e-2, batch_size=4, epochs=0.5) | options))


class Recorder(nn.Module):
    """An objective that writes down its losses, and can fail at a chosen call."""

    def __init__(self, fail_at=None, value=None):
        super().__init__()
        self.losses, self.fail_at, self.value = [], fail_at, value

    def forward(self, logits, input_ids, mask=None):
        if len(self.losses) == self.fail_at:
            if self.value is None:
                raise RuntimeError("killed")
            return cross_entropy(logits, input_ids) * self.value
        loss = cross_entropy(logits, input_ids)
        self.losses.append(loss.item())
        return loss


def model_for(corpus, dropout=0.0):
    from ifguide.models import ModelSettings

    settings = dict(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, hidden_dropout=dropout
    )
    return ModelSettings(architecture="gpt_neox", settings=settings).build(corpus.vocabulary, None)


def run(corpus, directory, objective, *, model=None, trainer=CPU, mask=None, callbacks=(), **options):
    model = model if model is not None else model_for(corpus)
    facts = train(
        model, objective, optimization(**options), TrainingContext(trainer, directory, callbacks=callbacks),
        blocks=corpus.split("train"), mask=mask, validation=corpus.split("validation"), seed=0,
    )  # fmt: skip
    return model, facts


def test_the_order_visits_every_block_once_an_epoch_and_follows_the_seed():
    rows = [rows_of_step(step, seed=3, batch_size=4, blocks=10) for step in range(5)]
    flat = np.concatenate(rows)
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert (flat[:10] != flat[10:]).any()
    assert (rows_of_step(2, seed=3, batch_size=4, blocks=10) == rows[2]).all()
    assert any((rows_of_step(s, seed=4, batch_size=4, blocks=10) != rows[s]).any() for s in range(5))


def test_processes_and_micro_batches_share_a_step():
    order = dict(steps=3, first_step=0, seed=0, batch_size=8, blocks=20)
    alone = list(BatchOrder(accumulate=1, rank=0, processes=1, **order))
    shared = [list(BatchOrder(accumulate=2, rank=rank, processes=2, **order)) for rank in (0, 1)]
    for step in range(3):
        parts = [shared[rank][2 * step + micro] for rank in (0, 1) for micro in (0, 1)]
        assert all(len(part) == 2 for part in parts)
        assert sorted(np.concatenate(parts)) == sorted(alone[step])


def test_blocks_and_mask_are_joined_by_row(corpus):
    split = corpus.split("train")
    mask = np.random.default_rng(0).random(split.shape) < 0.5
    rows = np.array([5, 0, 2])
    batch = BlockDataset(split, TokenMask.pack(mask))[rows]
    assert (batch["mask"].numpy() == mask[rows]).all()
    assert (batch["input_ids"].numpy() == split.tokens(slice(0, 6))[rows]).all()
    with pytest.raises(ValueError, match="another corpus"):
        BlockDataset(split, TokenMask.pack(mask[1:]))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_an_interrupted_run_resumes_exactly(corpus, tmp_path, dropout):
    whole = Recorder()
    model, facts = run(corpus, tmp_path / "whole", whole, model=model_for(corpus, dropout))
    calls = facts["steps"] * 2
    assert len(whole.losses) == calls

    broken, rest = Recorder(fail_at=calls // 2 + 1), Recorder()
    with pytest.raises(RuntimeError, match="killed"):
        run(corpus, tmp_path / "broken", broken, model=model_for(corpus, dropout))
    assert broken.losses == whole.losses[: len(broken.losses)]
    resumed, _ = run(corpus, tmp_path / "broken", rest, model=model_for(corpus, dropout))
    assert 0 < len(rest.losses) < calls
    assert rest.losses == whole.losses[-len(rest.losses) :]
    for (name, a), b in zip(model.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name


class Interrupt(Callback):
    """Does something when the validation after a step begins."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_validation_start(self, trainer, module):
        if trainer.global_step == self.step:
            self.act()


class Killed(RuntimeError):
    pass


def killed():
    raise Killed("killed")


@pytest.mark.parametrize("every, interrupted_at", [(None, -1), (3, 3)])
def test_the_last_losses_are_known_of_a_run_that_was_interrupted_while_it_was_validated(
    corpus, tmp_path, every, interrupted_at
):
    """Nothing is left to train where that was after the last step; or the last step is between two validations."""
    trainer = TrainerSettings(micro_batch_size=2, checkpoint_every=1, progress=False, validate_every=every)
    model, whole = run(corpus, tmp_path / "whole", Recorder(), trainer=trainer)
    steps = range(whole["steps"] + 1)
    interrupt = Interrupt(steps[interrupted_at], killed)
    with pytest.raises(RuntimeError, match="killed"):
        run(corpus, tmp_path / "broken", Recorder(), trainer=trainer, callbacks=[interrupt])
    _, facts = run(corpus, tmp_path / "broken", Recorder(), trainer=trainer)
    assert facts == whole and whole.keys() == {"steps", "tokens", "train/loss", "validation/loss"}
    assert whole["validation/loss"] == pytest.approx(validation_loss(model, corpus), rel=1e-6)


def validation_loss(model, corpus):
    """Of the weights that a training ended with."""
    tokens = torch.from_numpy(corpus.split("validation").tokens(slice(None)).astype(np.int64))
    with torch.no_grad():
        return cross_entropy(model.eval()(input_ids=tokens).logits, tokens).item()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_learns_the_same_and_is_resumed_without(corpus, tmp_path):
    whole, compiled, rest = Losses(), Losses(end=3), Losses()
    run(corpus, tmp_path / "whole", LanguageModeling(), callbacks=[whole])
    trainer = TrainerSettings(micro_batch_size=2, checkpoint_every=3, progress=False, compile=True)
    with pytest.raises(RuntimeError, match="killed"):
        run(corpus, tmp_path / "broken", LanguageModeling(), trainer=trainer, callbacks=[compiled])
    run(corpus, tmp_path / "broken", LanguageModeling(), callbacks=[rest])
    assert len(compiled.found) == 6 and len(compiled.found + rest.found) == len(whole.found)
    np.testing.assert_allclose(compiled.found + rest.found, whole.found, rtol=1e-5)


class Losses(Callback):
    """Keeps the losses of micro-batches, and ends the training after a step without a word."""

    def __init__(self, end=None):
        self.end, self.found = end, []

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.found.append(float(trainer.callback_metrics["train/loss"]))

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_step == self.end:
            killed()


def test_a_run_that_is_interrupted_twice_resumes_exactly(corpus, tmp_path):
    """The second time amid the micro-batches of the step after the one that it was resumed from."""
    whole, first, second, last = Recorder(), Recorder(), Recorder(fail_at=1), Recorder()
    model, facts = run(corpus, tmp_path / "whole", whole)
    first.fail_at = facts["steps"] + 1
    for objective in (first, second):
        with pytest.raises(RuntimeError, match="killed"):
            run(corpus, tmp_path / "broken", objective)
    resumed, _ = run(corpus, tmp_path / "broken", last)
    assert len(second.losses) == 1 and last.losses == whole.losses[-len(last.losses) :]
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_accumulation_does_not_change_the_model(corpus, tmp_path):
    models = [
        run(corpus, tmp_path / str(micro), LanguageModeling(), model=model_for(corpus).double(),
            trainer=TrainerSettings(micro_batch_size=micro, precision="64-true", progress=False))[0]
        for micro in (1, 4)
    ]  # fmt: skip
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert torch.allclose(a, b, atol=1e-9)


def test_mixed_precision_trains_with_clipping(corpus, tmp_path):
    trainer = TrainerSettings(micro_batch_size=4, precision="bf16-mixed", progress=False)
    objective = Recorder()
    model, _ = run(corpus, tmp_path, objective, trainer=trainer)
    assert objective.losses[-1] < objective.losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("option", ["fused_loss", "gradient_checkpointing"])
def test_options_of_memory_change_no_number(option, corpus, tmp_path):
    """Dropout on: what is computed again draws the same."""
    losses = []
    for name in ("plain", option):
        trainer = TrainerSettings(micro_batch_size=2, progress=False, **({} if name == "plain" else {name: True}))
        objective = Recorder()
        run(corpus, tmp_path / name, objective, model=model_for(corpus, 0.2), trainer=trainer)
        losses.append(objective.losses)
    assert len(losses[0]) > 5 and np.allclose(*losses, atol=1e-5)


@pytest.mark.parametrize("fused, limit", [(True, 0.5 * 1024), (False, 0.5)])
def test_scaled_gradients_are_clipped_as_the_others_are(fused, limit, corpus):
    """Under float16 a fused optimiser takes the scale off after clipping, others before."""
    settings = optimization(clip=0.5, optimizer=partial(torch.optim.AdamW, fused=fused))
    module = CausalLanguageModel(model_for(corpus), LanguageModeling(), settings, steps=1, seed=0)
    scaler = SimpleNamespace(get_scale=lambda: 1024.0)
    module._trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler), strategy=None)
    optimizer, _ = settings.configure(module.model.named_parameters(), 1)
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    module.configure_gradient_clipping(optimizer)
    norm = torch.stack([parameter.grad.norm() for parameter in module.parameters()]).norm()
    assert float(norm) == pytest.approx(limit, rel=1e-4)


def cut(path):
    """Half of a file, as a copy between two file systems leaves it that is killed."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_damaged_checkpoint_is_passed_over(corpus, tmp_path, caplog):
    whole, _ = run(corpus, tmp_path / "whole", LanguageModeling())
    with pytest.raises(RuntimeError, match="killed"):
        run(corpus, tmp_path / "torn", Recorder(fail_at=9))
    (kept,) = (tmp_path / "torn" / "checkpoints").glob("*.ckpt")
    newer = kept.with_name("step=999.ckpt")
    newer.write_bytes(kept.read_bytes())
    cut(newer)
    assert newest_checkpoint(kept.parent) == kept and "step=999.ckpt is damaged" in caplog.text
    cut(kept)
    assert newest_checkpoint(kept.parent) is None
    again, _ = run(corpus, tmp_path / "torn", LanguageModeling())
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(corpus, tmp_path, monkeypatch):
    save = torch.save

    def half(checkpoint, file):
        if checkpoint["global_step"] > 3:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(checkpoint, file)

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space left"):
        run(corpus, tmp_path, LanguageModeling())
    (kept,) = (tmp_path / "checkpoints").iterdir()
    assert newest_checkpoint(kept.parent) == kept and "step=3" in kept.name


def test_another_accumulation_does_not_resume(corpus, tmp_path):
    with pytest.raises(RuntimeError, match="killed"):
        run(corpus, tmp_path, Recorder(fail_at=9))
    with pytest.raises(ValueError, match="micro_batch_size"):
        run(corpus, tmp_path, Recorder(), trainer=TrainerSettings(micro_batch_size=1, progress=False))


def test_an_empty_mask_trains_the_uncensored_model(corpus, tmp_path):
    mask = TokenMask.pack(np.zeros(corpus.split("train").shape, bool))
    plain, _ = run(corpus, tmp_path / "plain", LanguageModeling())
    suppressed, _ = run(corpus, tmp_path / "masked", SuppressedLanguageModeling(penalty=1.0), mask=mask)
    for a, b in zip(plain.parameters(), suppressed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_diverged_run_stops_and_keeps_its_last_good_checkpoint(corpus, tmp_path):
    objective = Recorder(fail_at=9, value=float("nan"))
    with pytest.raises(DivergedError, match="learning_rate") as error:
        run(corpus, tmp_path, objective, epochs=1)
    kept = newest_checkpoint(tmp_path / "checkpoints")
    assert kept is not None and str(kept) in str(error.value)
    weights = torch.load(kept, weights_only=True)["state_dict"]
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_weights_that_are_not_finite_are_never_saved(corpus, tmp_path):
    class Explode(nn.Module):
        def forward(self, logits, input_ids, mask=None):
            loss = cross_entropy(logits, input_ids)
            return loss + (loss - loss.detach()) * 1e39  # finite loss, infinite gradient

    with pytest.raises(DivergedError):
        run(corpus, tmp_path, Explode(), epochs=1)
    assert newest_checkpoint(tmp_path / "checkpoints") is None


def test_no_epochs_keep_the_model(corpus, tmp_path):
    model = model_for(corpus)
    before = [parameter.clone() for parameter in model.parameters()]
    _, facts = run(corpus, tmp_path, LanguageModeling(), model=model, epochs=0)
    assert facts["steps"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_facts_report_validation_loss_and_tokens(corpus, tmp_path):
    model, facts = run(corpus, tmp_path, LanguageModeling())
    split = corpus.split("validation")
    ids = torch.from_numpy(split.tokens(slice(0, len(split))))
    with torch.no_grad():
        expected = cross_entropy(model.eval()(ids).logits, ids)
    assert facts["validation/loss"] == pytest.approx(expected.item(), abs=1e-4)
    assert facts["tokens"] == facts["steps"] * 4 * 16


@pytest.mark.parametrize("blocks, batch, processes", [(3, 2, 2), (4, 1, 3), (1, 4, 2), (5, 2, 1), (2, 1, 4)])
def test_all_processes_validate_in_as_many_steps_and_read_every_block_once(blocks, batch, processes):
    rows = [{"input_ids": torch.tensor([row])} for row in range(blocks)]

    class Rows:
        def __len__(self):
            return blocks

        def __getitem__(self, index):
            return {"input_ids": torch.stack([rows[row]["input_ids"] for row in index])}

    found = []
    for rank in range(processes):
        data = ExampleDataModule(
            examples=Rows(), validation=Rows(), steps=1, batch_size=1, accumulate=1, seed=0, validation_batch=batch
        )
        data.trainer = SimpleNamespace(global_rank=rank, world_size=processes)
        found.append(list(data.val_dataloader()))
    assert len({len(batches) for batches in found}) == 1
    counted = [one for batches in found for one in batches if FILLING not in one]
    assert all(0 < len(one["input_ids"]) <= batch for one in counted)
    assert sorted(int(row) for one in counted for row in one["input_ids"]) == list(range(blocks))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_frozen_copy_computes_as_what_is_trained(dtype, corpus):
    """Otherwise a policy would differ from its own beginning by rounding."""
    trained, copied = model_for(corpus).to(dtype).eval(), model_for(corpus)
    frozen = FrozenCopy(copied, lambda: trained)
    ids = torch.from_numpy(corpus.split("train").tokens(slice(0, 2)))
    found = frozen(ids)
    assert torch.equal(found, trained(input_ids=ids).logits) and found.dtype == dtype and not found.requires_grad
    assert not any(parameter.requires_grad for parameter in copied.parameters())
