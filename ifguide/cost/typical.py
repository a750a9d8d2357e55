"""Work that many stages have in common: training, reading, generating."""

from collections.abc import Sequence
from typing import Any

from ifguide.cost import kinds
from ifguide.cost.shape import FLOAT, ModelShape
from ifguide.cost.work import PROCESS, Kind, Memory, Pass, Work
from ifguide.decoding import Decoder, Nucleus
from ifguide.hardware import AUTO, FLOAT32
from ifguide.inference import LEAST_PARAMETERS
from ifguide.training.strategies import FSDP
from ifguide.training.trainer import TrainerSettings

MICRO = "trainer.micro_batch_size"
STATES = 4  # tensors of every weight in training: itself, its gradient, two moments
SAVED = 3  # of them in a resume checkpoint
SECONDS_PER_TEXT = 5e-5  # that a classifier which is no neural network takes, and what is counted of a text
PROMPT = 15  # tokens that a prompt is taken to have
TOKENIZER = 65.0  # bytes of tokenizer.json for each token id


def dtype_of(precision: str) -> str:
    """In which numbers products are computed."""
    return "bfloat16" if "16" in precision else "float32"


def planned_dtype(dtype: str, model: ModelShape) -> str:
    """That of a model which is read: where the device decides, a small one is in float32 (`ifguide.inference`)."""
    return FLOAT32 if dtype == AUTO and model.parameters < LEAST_PARAMETERS else dtype


def training(
    model: ModelShape,
    trainer: TrainerSettings,
    *,
    batch_size: int,
    steps: float,
    length: int,
    validation: float = 0,
    vocabulary: int = 0,
    shares: bool = False,
) -> Work:
    """A training of all weights, which ends in a Hugging Face folder.

    Args:
        model: what is trained.
        trainer: precision, micro-batches, checkpoints and validations.
        batch_size: sequences of a step.
        steps: of the optimiser.
        length: tokens of a sequence.
        validation: sequences of a validation.
        vocabulary: token ids of the tokenizer beside the model.
        shares: whether `trainer.strategy=fsdp` shares the weights out.
    """
    micro = max(1, min(trainer.micro_batch_size, batch_size // trainer.processes))
    dtype = dtype_of(trainer.precision)
    every = trainer.validate_every
    times = 1.0 if every is None else max(1.0, 1 / every if every < 1 else steps / every)
    passes = [Pass(kinds.train, model, micro, length, steps * batch_size / micro, dtype)]
    if trainer.gradient_checkpointing:
        passes.append(Pass(kinds.forward, model, micro, length, passes[0].count, dtype))
    if validation and steps:
        passes.append(Pass(kinds.forward, model, trainer.micro_batch_size, length,
                           times * validation / trainer.micro_batch_size, dtype))  # fmt: skip
    weights, each = FLOAT * model.parameters, model.activations(length, recomputed=trainer.gradient_checkpointing)
    holders = trainer.processes if shares and trainer.strategy == FSDP else 1
    return Work(
        tuple(passes),
        memory=Memory(PROCESS + STATES * weights / holders, each, micro, MICRO),
        disk=weights + TOKENIZER * vocabulary,
        scratch=2 * SAVED * weights if steps > trainer.checkpoint_every else 0.0,
    )


def reading(
    model: ModelShape,
    *,
    batch_size: int,
    count: float,
    length: float,
    setting: str | None,
    kind: Kind | None = None,
    dtype: str = FLOAT32,
) -> Work:
    """Texts or blocks through a model.

    Args:
        model: who reads.
        batch_size: sequences at a time.
        count: sequences.
        length: tokens of a sequence.
        setting: what decides the batch size, as it is typed.
        kind: what is computed; None: losses.
        dtype: of the model; memory is that of float32.
    """
    tokens = max(2, round(length))
    kept = kind is not None
    each = model.activations(tokens) if kept else model.logits(tokens) + FLOAT * tokens * 12 * model.width
    weights = FLOAT * model.parameters
    return Work(
        (Pass(kind or kinds.forward, model, batch_size, tokens, count / batch_size, planned_dtype(dtype, model)),),
        memory=Memory(PROCESS + weights * (2 if kept else 1), each, batch_size, setting),
    )


def generating(
    model: ModelShape,
    *,
    prompts: int,
    samples: int,
    new: int,
    length: float,
    rows: int,
    setting: str | None,
    decoder: Decoder | None = None,
    auxiliaries: Sequence[ModelShape] = (),
    dtype: str = FLOAT32,
) -> Work:
    """Continuations of prompts; continuations that end early make it less.

    Args:
        model: who writes.
        prompts, samples, new: how many, of each, and tokens of one.
        length: tokens of a prompt.
        rows: sequences at a time.
        setting: what decides that, as it is typed.
        decoder: what shapes the distribution, where it reads no model.
        auxiliaries: models that read each new token, too.
        dtype: of all of them, as the model's size decides; memory is that of float32.
    """
    dtype = planned_dtype(dtype, model)
    kind = kinds.Generating(samples, new, decoder or Nucleus())
    at_once = max(samples, min(rows, prompts * samples))
    tokens = max(2, round(length))
    every = (model, *auxiliaries)
    # the cache, and the logits with their sorted copy and what is summed of them in float64
    each = sum(2 * FLOAT * one.layers * one.attended * (tokens + new) for one in every) + 8 * FLOAT * model.vocabulary
    return Work(
        tuple(Pass(kind, one, at_once, tokens, prompts * samples / at_once, dtype) for one in every),
        memory=Memory(PROCESS + FLOAT * sum(one.parameters for one in every), each, at_once, setting),
    )


def lacking(judge: Any) -> str | None:
    """What is not counted of a classifier that is a neural network, which reads batches."""
    return f"what {judge.name} computes" if hasattr(judge, "batch_size") else None
