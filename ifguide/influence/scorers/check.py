"""A scorer, checked: on a few blocks its scores are compared with the reference form's.

Fast forms know how a layer computes by its class. Where a model reads a layer's weight without calling the layer, or
computes in a way of its own, they would leave a part of the direction out, and a check against themselves would not
see it.
"""

import copy
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ifguide.influence.scorers.base import Direction, Scorer, TokenScorer, same_parameters
from ifguide.influence.scorers.exact import exact_scores
from ifguide.objectives.language_modeling import token_losses

TOKENS = 512  # of the sample's first blocks, one at least
LIMITS = {torch.bfloat16: 0.2}  # largest relative error, by dtype; what is left out of a random direction is above
LIMIT = 0.05
LEAST_GRADIENT = 1e-2  # of the largest: a parameter whose gradient is nothing but rounding keeps a small part


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
    blocks = sample_BT[: max(1, TOKENS // sample_BT.shape[1])]
    if complete is None:
        prepared = scorer.prepare(model, directions, sample_BT)
        with one_line(model, "use scorer=finite_difference"):
            prepared(blocks[:1])
        return prepared
    sizes, uncalled = gradient_sizes(copy.deepcopy(model), same_parameters(directions)[0], blocks)
    random = random_direction(model, sizes)
    expected, few = _expected(model, [*directions, random], blocks)
    way_out = "use scorer=jvp scorer.form=reference" if few is blocks else "use scorer=finite_difference"
    if uncalled:
        raise ValueError(f"{type(model).__name__} reads {uncalled[0]} without calling its layer; {way_out}")
    with one_line(model, way_out):
        of_random = complete.prepare(copy.deepcopy(model), [random], few)(few)
        prepared = scorer.prepare(model, directions, sample_BT)
        of_directions = prepared(few)
    errors = [
        relative_error(ours, theirs, each_token=scorer.OWN_LOSS)
        for ours, theirs in zip([*of_directions, *of_random], expected, strict=True)
    ]
    limit = max(LIMITS.get(model.dtype, LIMIT), scorer.allowed_error)
    checked = errors if complete == scorer else errors[-1:]  # what is left out on purpose is told, no more
    if not all(error <= limit for error in checked):  # not a number fails, too
        along = "its direction" if not errors[-1] > limit else "a random direction over all its parameters"
        raise ValueError(
            f"scores of {type(model).__name__} by {type(scorer).__name__} differ from the reference form's by "
            f"{max(checked, key=lambda error: (error != error, error)):.2g} of their size along {along} (at most "
            f"{limit:.2g} is taken): this form does not compute a part of the model; {way_out}"
        )
    facts = {"blocks": len(few), "relative_error": errors[:-1], "relative_error_of_random_direction": errors[-1]}
    return TokenScorer(prepared.score, {**prepared.facts, "self_check": facts})


def relative_error(ours_BT: Tensor, expected_BT: Tensor, *, each_token: bool = True) -> float:
    """‖ours − expected‖ / ‖expected‖ over tokens, or over the sums of blocks; 0 where both are 0."""
    ours, expected = (scores.double() if each_token else scores.double().sum(-1) for scores in (ours_BT, expected_BT))
    error, size = float((ours - expected).norm()), float(expected.norm())
    return 0.0 if error == 0 else error / size if size else float("inf")


def gradient_sizes(
    model: PreTrainedModel, names: Collection[str], blocks_BT: Tensor, seed: int = 0
) -> tuple[dict[str, float], list[str]]:
    """Norms of the gradients of some parameters, of the sum of all tokens' losses with random signs; and the names of
    those that have one though their layer is never called."""
    generator = torch.Generator().manual_seed(seed)
    leaves = {name: model.get_parameter(name).detach().requires_grad_() for name in names}
    signs = 1 - 2 * torch.randint(2, blocks_BT.shape, generator=generator).to(blocks_BT.device)
    called = set[str]()
    handles = [
        model.get_submodule(layer).register_forward_hook(lambda *_, layer=layer: called.add(layer))
        for layer in {name.rpartition(".")[0] for name in names}
    ]
    with torch.enable_grad():
        logits = torch.func.functional_call(model, leaves, (blocks_BT,), {"use_cache": False}).logits
        total = (token_losses(logits, blocks_BT) * signs).sum()
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    for handle in handles:
        handle.remove()
    sizes = {
        name: 0.0 if gradient is None else float(gradient.double().norm())
        for name, gradient in zip(leaves, found, strict=True)
    }
    return sizes, [name for name, size in sizes.items() if size > 0 and name.rpartition(".")[0] not in called]


def random_direction(model: PreTrainedModel, sizes: Mapping[str, float], seed: int = 0) -> Direction:
    """A random direction over some parameters, along which each kind of them (the same one of every decoder block)
    has an equal part in the scores, however large it is: what leaves one out is seen.

    It is drawn from a generator of its own.

    Args:
        sizes: parameter name → norm of its gradient.
    """
    generator = torch.Generator().manual_seed(seed)
    kinds = Counter(map(_kind, sizes))
    least = max(sizes.values()) * LEAST_GRADIENT or 1.0
    return {
        name: torch.randn(model.get_parameter(name).shape, generator=generator).to(model.get_parameter(name))
        / (max(size, least) * kinds[_kind(name)] ** 0.5)
        for name, size in sizes.items()
    }


def _kind(name: str) -> str:
    return re.sub(r"\.\d+\.", ".", name)


def _expected(model: PreTrainedModel, directions: Sequence[Direction], blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The reference's scores, in float32 at least, and the blocks that they are of."""
    if model.dtype.itemsize < 4:
        model = copy.deepcopy(model).float()
    matching = [{name: value.to(model.dtype) for name, value in direction.items()} for direction in directions]
    return exact_scores(model, matching, blocks, fast=False)


@contextmanager
def one_line(model: PreTrainedModel, way_out: str) -> Iterator[None]:
    """Turn what a form raises on a model that it does not know into a ValueError that names the way out."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError) as error:  # NotImplementedError is of RuntimeError
        first = next(iter(str(error).splitlines()), type(error).__name__).partition(". ")[0].rstrip(".")
        raise ValueError(f"this form does not know how {type(model).__name__} computes ({first}); {way_out}") from error
