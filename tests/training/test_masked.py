"""A mask column in other trainers: what a batch is, what the loss is, and that it is Trainer's own where nothing is."""

from functools import partial

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import VOCABULARY, tiny_model, tiny_tokenizer
from transformers import Trainer, TrainingArguments

from ifguide.objectives import (
    FadedAscent,
    LanguageModeling,
    NegativePreference,
    SuppressedLanguageModeling,
    Unlikelihood,
)
from ifguide.training.masked import IGNORED, MaskedCollator, MaskedLoss, decode_labels, encode_labels

OBJECTIVES = [
    LanguageModeling(), SuppressedLanguageModeling(penalty=0.7), FadedAscent(), NegativePreference(), Unlikelihood()
]  # fmt: skip


def rows(lengths, seed=0, share=0.3):
    rng = np.random.default_rng(seed)
    return [
        {"input_ids": rng.integers(VOCABULARY, size=n).tolist(), "mask": (rng.random(n) < share).tolist()}
        for n in lengths
    ]


def test_a_batch_is_padded_and_its_labels_carry_the_mask():
    given = rows([5, 3])
    batch = MaskedCollator(pad_token_id=7)(given)
    assert batch["input_ids"].tolist() == [given[0]["input_ids"], [*given[1]["input_ids"], 7, 7]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    ids, mask = decode_labels(batch["labels"])
    assert ids.tolist() == [
        [IGNORED, *given[0]["input_ids"][1:]],
        [IGNORED, *given[1]["input_ids"][1:], *[IGNORED] * 2],
    ]
    assert mask.tolist() == [[False, *given[0]["mask"][1:]], [False, *given[1]["mask"][1:], False, False]]
    assert (batch["labels"] != IGNORED).sum() == 4 + 2
    assert MaskedCollator(max_length=2)(given)["input_ids"].shape == (2, 2)


def test_labels_and_mask_go_into_one_and_come_out():
    labels, mask = torch.tensor([IGNORED, 0, 0, 50_000, 3]), torch.tensor([True, False, True, True, False])
    ids, found = decode_labels(encode_labels(labels, mask))
    assert ids.tolist() == labels.tolist() and found.tolist() == [False, *mask.tolist()[1:]]


def test_a_rows_own_labels_decide_what_counts():
    (row,) = rows([6], share=1)
    row["labels"] = [IGNORED] * 3 + row["input_ids"][3:]
    ids, mask = decode_labels(MaskedCollator()([row])["labels"][0])
    assert ids.tolist() == row["labels"] and mask.tolist() == [False] * 3 + [True] * 3


def test_mistakes_are_refused():
    (row,) = rows([4])
    with pytest.raises(ValueError, match=r"no `mask`, only input_ids: .* remove_unused_columns=False"):
        MaskedCollator()([{"input_ids": row["input_ids"]}])
    with pytest.raises(ValueError, match="4 tokens and 3 values of `mask`"):
        MaskedCollator()([row | {"mask": row["mask"][1:]}])
    with pytest.raises(ValueError, match="max_length=1"):
        MaskedCollator(max_length=1)
    with pytest.raises(ValueError, match=r"^objective\.unit=run: .*use token"):
        MaskedLoss(NegativePreference(unit="run"))
    with pytest.raises(ValueError, match="use MaskedCollator"):
        MaskedLoss(LanguageModeling())({"logits": torch.zeros(1, 2, 3)}, None)


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


def loss_of(model, objective, batch, **options):
    labels = batch["labels"]
    return MaskedLoss(objective)(model(batch["input_ids"], batch["attention_mask"]), labels, **options)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: type(one).__name__)
def test_on_rows_of_one_length_the_loss_is_the_objective(objective, llama):
    given = rows([9, 9, 9])
    ids, mask = (torch.tensor([row[name] for row in given]) for name in ("input_ids", "mask"))
    ours = loss_of(llama, objective, MaskedCollator()(given))
    assert ours.item() == pytest.approx(objective(llama(ids).logits, ids, mask).item(), rel=1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: type(one).__name__)
def test_padding_never_counts_and_tokens_weigh_the_same(objective, llama):
    given = rows([9, 2, 5, 1])
    alone = [loss_of(llama, objective, MaskedCollator()([row])).item() * (len(row["mask"]) - 1) for row in given]
    for pad in (0, 5):
        together = loss_of(llama, objective, MaskedCollator(pad_token_id=pad)(given))
        assert together.item() == pytest.approx(sum(alone) / 13, rel=1e-6)
    share = loss_of(llama, objective, MaskedCollator()(given[:2]), num_items_in_batch=torch.tensor(13))
    assert share.item() == pytest.approx(sum(alone[:2]) / 13, rel=1e-6)


def test_a_batch_in_which_nothing_counts_has_no_loss(llama):
    loss = loss_of(llama, SuppressedLanguageModeling(), MaskedCollator()(rows([1, 1])))
    loss.backward()
    assert loss.item() == 0


SETTINGS = dict(
    learning_rate=0.1, optim="sgd", lr_scheduler_type="constant", logging_steps=1, save_strategy="no", seed=1,
    use_cpu=True, report_to="none", disable_tqdm=True, remove_unused_columns=False,
)  # fmt: skip


def train(folder, given, *, objective=None, batch=4, accumulate=1, steps=2, make=Trainer, settings=TrainingArguments,
          **more):  # fmt: skip
    """Weights and losses after some steps; without an objective, with the trainer's own loss."""
    model = tiny_model("llama", dtype=torch.float32)
    trainer = make(
        model,
        settings(str(folder), max_steps=steps, per_device_train_batch_size=batch,
                 gradient_accumulation_steps=accumulate, **SETTINGS, **more),
        train_dataset=Dataset.from_list(given),
        data_collator=MaskedCollator(),
    )  # fmt: skip
    if objective is not None:
        trainer.compute_loss_func = MaskedLoss(objective)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), losses


def test_with_nothing_masked_the_loss_is_trainers_own(tmp_path):
    given = rows([9, 3, 7, 5, 8, 2], share=0)
    plain, losses = train(tmp_path, given)
    for objective in (SuppressedLanguageModeling(penalty=1), Unlikelihood()):
        ours, found = train(tmp_path, given, objective=objective)
        assert found == pytest.approx(losses, rel=1e-6) and torch.allclose(ours, plain, atol=1e-6)
    masked, _ = train(tmp_path, rows([9, 3, 7, 5, 8, 2]), objective=SuppressedLanguageModeling(penalty=1))
    assert not torch.allclose(masked, plain, atol=1e-3)


def test_accumulated_batches_are_one_batch(tmp_path):
    given = rows([9, 2, 7, 3])
    objective = SuppressedLanguageModeling(penalty=1)
    whole, losses = train(tmp_path, given, objective=objective)
    for batch in (2, 1):
        parts, found = train(tmp_path, given, objective=objective, batch=batch, accumulate=4 // batch)
        assert torch.allclose(parts, whole, atol=1e-6) and found == pytest.approx(losses, rel=1e-5)


@pytest.mark.slow
def test_trls_trainer_has_the_same_loss(tmp_path):
    """With the one line of `docs/howto/elsewhere.md`."""
    trl = pytest.importorskip("trl", reason="TRL's trainer needs trl")

    class MaskedSFTTrainer(trl.SFTTrainer):
        compute_loss = Trainer.compute_loss

    given, tokenizer = rows([9, 2, 7, 3, 8, 5, 4, 6]), tiny_tokenizer(["a cat"])
    more = dict(settings=trl.SFTConfig, bf16=False, dataset_kwargs={"skip_prepare_dataset": True})
    sft, ours = (partial(kind, processing_class=tokenizer) for kind in (trl.SFTTrainer, MaskedSFTTrainer))
    objective = SuppressedLanguageModeling(penalty=1)
    unmasked = [row | {"mask": [False] * len(row["mask"])} for row in given]
    plain, losses = train(tmp_path, unmasked, make=sft, **more)
    weights, found = train(tmp_path, unmasked, make=ours, objective=objective, **more)
    assert found == pytest.approx(losses, rel=1e-5) and torch.allclose(weights, plain, atol=1e-6)
    expected, losses = train(tmp_path, given, objective=objective)
    for batch in (4, 2):
        weights, found = train(
            tmp_path, given, make=ours, objective=objective, batch=batch, accumulate=4 // batch, **more
        )
        assert found == pytest.approx(losses, rel=1e-5) and torch.allclose(weights, expected, atol=1e-6)
