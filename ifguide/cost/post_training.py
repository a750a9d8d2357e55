"""Work of post-training that does more than read texts and learn from them."""

from dataclasses import replace

from ifguide.cost import kinds
from ifguide.cost.shape import FLOAT, ModelShape
from ifguide.cost.typical import MICRO, dtype_of, generating, training
from ifguide.cost.work import Memory, Pass, Work
from ifguide.training.trainer import TrainerSettings


def learning_in_groups(
    model: ModelShape,
    trainer: TrainerSettings,
    *,
    group: int,
    batch_size: int,
    steps: float,
    length: int,
    read: float,
    vocabulary: int,
) -> Work:
    """A training on several sequences for each of what a batch counts, beside which sequences are read.

    Args:
        model: what is trained.
        trainer: precision, micro-batches and checkpoints.
        group: sequences for each of what is counted.
        batch_size: what a step counts.
        steps: of the optimiser.
        length: tokens of a sequence.
        read: how often each sequence is read without gradients, as by a frozen copy.
        vocabulary: token ids of the tokenizer beside the model.
    """
    found = training(model, trainer, batch_size=batch_size, steps=steps, length=length, vocabulary=vocabulary)
    micro, dtype = found.memory.count, dtype_of(trainer.precision)
    rows, times = group * micro, steps * batch_size / micro
    weights, each = FLOAT * model.parameters, group * model.activations(length)
    return replace(
        found,
        passes=(
            Pass(kinds.train, model, rows, length, times, dtype),
            Pass(kinds.forward, model, rows, length, times * read, dtype),
        ),
        memory=Memory(found.memory.fixed + weights * (read > 0), each, micro, MICRO),
    )


def learning_from_samples(
    model: ModelShape,
    trainer: TrainerSettings,
    *,
    samples: int,
    new: int,
    prompt: int,
    rows: int,
    batch_size: int,
    steps: float,
    sampled: float,
    vocabulary: int,
) -> Work:
    """A training on continuations that the model samples as it learns; those that end early make it less.

    Args:
        model: what is trained.
        trainer: precision, micro-batches and checkpoints.
        samples, new: continuations of a prompt, and tokens of one.
        prompt: tokens of a prompt.
        rows: sequences that are sampled at a time.
        batch_size: prompts of a step.
        steps: of the optimiser.
        sampled: how many of them sample; in each, the model and the frozen copy read what was sampled.
        vocabulary: token ids of the tokenizer beside the model.
    """
    read = 2 * sampled / steps if steps else 0.0
    found = learning_in_groups(
        model, trainer, group=samples, batch_size=batch_size, steps=steps, length=prompt + new, read=read,
        vocabulary=vocabulary,
    )  # fmt: skip
    micro = found.memory.count
    written = generating(model, prompts=micro, samples=samples, new=new, length=prompt, rows=rows, setting=None)
    times = sampled * batch_size / micro
    more = tuple(replace(one, count=one.count * times) for one in written.passes)
    return replace(found, passes=(*found.passes, *more))
