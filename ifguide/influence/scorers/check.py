"""A scorer, checked: on a few blocks its scores are compared with the reference form's.

Fast forms know how a layer computes by its class. Where a model reads a layer's weight without calling the layer, or
computes in a way of its own, they would leave a part of the direction out, and a check against themselves would not
see it.
"""

import copy
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ifguide.influence.scorers.base import Direction, Scorer, TokenScorer, same_parameters
from ifguide.influence.scorers.jvp import reference_scores
from ifguide.objectives.language_modeling import token_losses

TOKENS = 512  # of the sample's first blocks, one at least
LIMITS = {torch.bfloat16: 0.2}  # largest relative error, by dtype; what is left out of a random direction is above
LIMIT = 0.05
LEAST_GRADIENT = 1e-2  # of the largest: a parameter whose gradient is nothing but rounding keeps a small part
WAY_OUT = "use scorer=jvp scorer.form=reference"


def prepare_checked(
    scorer: Scorer, model: PreTrainedModel, directions: Sequence[Direction], sample_BT: Tensor
) -> TokenScorer:
    """Prepare a scorer and compare it with the reference form, along the directions and along a random one over all
    parameters that they hold.

    Args:
        scorer, model, directions, sample_BT: as in `Scorer.prepare`.

    Returns:
        The scorer; its facts tell the relative errors under `self_check`.

    Raises:
        ValueError: the scores differ, or the model cannot be computed in this form; it names the way out.
    """
    complete = scorer.complete()
    if complete is None:
        return scorer.prepare(model, directions, sample_BT)
    blocks = sample_BT[: max(1, TOKENS // sample_BT.shape[1])]
    random = random_direction(model, same_parameters(directions)[0], blocks)
    expected = _reference(model, [*directions, random], blocks)
    with one_line(model):
        of_random = complete.prepare(copy.deepcopy(model), [random], blocks)(blocks)
        prepared = scorer.prepare(model, directions, sample_BT)
        of_directions = prepared(blocks)
    errors = [
        relative_error(ours, theirs, each_token=scorer.OWN_LOSS)
        for ours, theirs in zip([*of_directions, *of_random], expected, strict=True)
    ]
    limit = LIMITS.get(model.dtype, LIMIT)
    checked = errors if complete == scorer else errors[-1:]  # what is left out on purpose is told, no more
    if not all(error <= limit for error in checked):  # not a number fails, too
        along = "its direction" if not errors[-1] > limit else "a random direction over all its parameters"
        raise ValueError(
            f"scores of {type(model).__name__} by {type(scorer).__name__} differ from the reference form's by "
            f"{max(checked, key=lambda error: (error != error, error)):.2g} of their size along {along} (at most "
            f"{limit} is taken): this form does not compute a part of the model; {WAY_OUT}"
        )
    facts = {"blocks": len(blocks), "relative_error": errors[:-1], "relative_error_of_random_direction": errors[-1]}
    return TokenScorer(prepared.score, {**prepared.facts, "self_check": facts})


def relative_error(ours_BT: Tensor, expected_BT: Tensor, *, each_token: bool = True) -> float:
    """‖ours − expected‖ / ‖expected‖ over tokens, or over the sums of blocks; 0 where both are 0."""
    ours, expected = (scores.double() if each_token else scores.double().sum(-1) for scores in (ours_BT, expected_BT))
    error, size = float((ours - expected).norm()), float(expected.norm())
    return 0.0 if error == 0 else error / size if size else float("inf")


def random_direction(model: PreTrainedModel, names: Collection[str], blocks_BT: Tensor, seed: int = 0) -> Direction:
    """A random direction over some parameters, along which each kind of them (the same one of every decoder block)
    has an equal part in the scores, however large it is: what leaves one out is seen.

    It is drawn from a generator of its own.
    """
    generator = torch.Generator().manual_seed(seed)
    leaves = {name: model.get_parameter(name).detach().requires_grad_() for name in names}
    signs = 1 - 2 * torch.randint(2, blocks_BT.shape, generator=generator).to(blocks_BT.device)
    with torch.enable_grad():
        logits = torch.func.functional_call(model, leaves, (blocks_BT,), {"use_cache": False}).logits
        total = (token_losses(logits, blocks_BT) * signs).sum()
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    sizes = {
        name: 0.0 if gradient is None else float(gradient.double().norm())
        for name, gradient in zip(leaves, gradients, strict=True)
    }
    kinds = Counter(map(_kind, leaves))
    least = max(sizes.values()) * LEAST_GRADIENT or 1.0
    return {
        name: torch.randn(value.shape, generator=generator).to(value)
        / (max(sizes[name], least) * kinds[_kind(name)] ** 0.5)
        for name, value in leaves.items()
    }


def _kind(name: str) -> str:
    return re.sub(r"\.\d+\.", ".", name)


def _reference(model: PreTrainedModel, directions: Sequence[Direction], blocks: Tensor) -> list[Tensor]:
    """The reference form's scores, in float32 at least."""
    if model.dtype.itemsize < 4:
        model = copy.deepcopy(model).float()
    matching = [{name: value.to(model.dtype) for name, value in direction.items()} for direction in directions]
    return [reference_scores(model, direction, blocks) for direction in matching]


@contextmanager
def one_line(model: PreTrainedModel) -> Iterator[None]:
    """Turn what a form raises on a model that it does not know into a ValueError that names the way out."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError) as error:  # NotImplementedError is of RuntimeError
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"this form does not know how {type(model).__name__} computes ({first}); {WAY_OUT}") from error
