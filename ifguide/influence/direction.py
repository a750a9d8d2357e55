"""The direction v = (H + δI)⁻¹ (g(toxic) − g(nontoxic)) in the space of the tracked parameters.

On disk a direction is `direction.safetensors`: parameter name → tensor of that parameter's own shape. Anything that
yields such a file can be scored.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ifguide.corpus.padding import pad
from ifguide.corpus.queries import EncodedQuery
from ifguide.hardware import AUTO, BFLOAT16, FLOAT32
from ifguide.inference import is_faster_rounded
from ifguide.influence.curvature import Curvature
from ifguide.influence.factors import CurvatureError, check_counts
from ifguide.influence.scorers.base import norm
from ifguide.models import layer_matrix, split_layer_matrix, tracked_layers, tracked_parameters
from ifguide.objectives.language_modeling import token_losses
from ifguide.processes import ALONE, Processes

DIRECTION_FILE = "direction.safetensors"
COSINE, CHECK_QUERIES = 0.999, 16  # of gradients in bfloat16 and in float32, at least; queries that are compared


@contextmanager
def gradients_of(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Within this context the parameters of these names, and no others, get gradients, of which there are none yet;
    then no parameter has one, and each requires one as before."""
    requires = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
            parameter.grad = None
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.grad = None
            parameter.requires_grad_(requires[name])


def query_gradient(
    model: PreTrainedModel,
    queries: Sequence[EncodedQuery],
    *,
    batch_size: int,
    layers: Sequence[str] | None = None,
    dtype: str = FLOAT32,
    processes: Processes = ALONE,
) -> dict[str, Tensor]:
    """g(toxic) − g(nontoxic): the differential gradient of the queries, in one signed accumulation.

    g(Q) is the mean over the queries of ∇θ Σ_{t in continuation} −log p(token); prompt and padding never count.

    Args:
        model: the proxy, on the device that computes; its gradients are cleared.
        queries: encoded queries of both classes.
        batch_size: queries at a time.
        layers: names of the layers whose gradients are taken; None: all tracked layers.
        dtype: in which products are computed, `float32` or `bfloat16`; sums are in the weights' own.
        processes: among which batches of queries are shared.

    Returns:
        Parameter name → tensor of its shape, for the tracked parameters.
    """
    parameters = {
        name: parameter
        for name, parameter in tracked_parameters(model).items()
        if layers is None or name.rpartition(".")[0] in layers
    }
    toxic = sum(query.toxic for query in queries)
    share = {True: 1.0 / max(toxic, 1), False: -1.0 / max(len(queries) - toxic, 1)}
    ordered = sorted(queries, key=lambda query: len(query.input_ids))
    model.eval()
    kept = next(iter(parameters.values())).dtype
    with gradients_of(model, parameters):
        firsts = processes.share(range(0, len(ordered), batch_size))
        for first in tqdm(firsts, desc="Query gradients", leave=False, disable=processes.no_bar):
            batch = ordered[first : first + batch_size]
            ids = pad([query.input_ids for query in batch])[0].to(model.device)
            weights = pad([query.continuation * share[query.toxic] for query in batch])[0].to(model.device, kept)
            with torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == BFLOAT16):
                losses = token_losses(model(input_ids=ids, use_cache=False).logits, ids)
            (losses * weights).sum().backward()
        found = {name: p.grad.detach().clone() for name, p in parameters.items() if p.grad is not None}
        return processes.sums(found)


def gradient_dtype(
    model: PreTrainedModel,
    queries: Sequence[EncodedQuery],
    *,
    batch_size: int,
    layers: Sequence[str] | None,
    dtype: str,
) -> tuple[str, dict[str, float]]:
    """In which dtype to take a gradient, and facts for the manifest: where `auto` leaves it open, in bfloat16 if the
    model is faster in it and the gradient of some queries has a cosine of `COSINE` with the one in float32."""
    if dtype != AUTO or not is_faster_rounded(model):
        return (FLOAT32 if dtype == AUTO else dtype), {}
    classes = ([query for query in queries if query.toxic == toxic] for toxic in (True, False))
    some = [query for members in classes for query in members[: CHECK_QUERIES // 2]]
    rounded, exact = (
        query_gradient(model, some, batch_size=batch_size, layers=layers, dtype=one) for one in (BFLOAT16, FLOAT32)
    )
    product = sum(float((rounded[name].double() * exact[name].double()).sum()) for name in exact)
    cosine = product / (norm(rounded) * norm(exact) or 1.0)
    return (BFLOAT16 if cosine >= COSINE else FLOAT32), {"gradient_cosine": cosine}


def precondition_direction(
    model: PreTrainedModel,
    gradients: Mapping[str, Tensor],
    factors: Mapping[str, Mapping[str, Tensor]],
    curvature: Curvature,
) -> dict[str, Tensor]:
    """Apply (H + δI)⁻¹ layer by layer to a gradient over the tracked parameters.

    Args:
        model: gives the layers and their layout (Conv1D is stored transposed).
        gradients: parameter name → gradient.
        factors: layer → factors (`load_factors`); empty for `identity`.
        curvature: how H is approximated and damped.

    Returns:
        v, parameter name → tensor of its shape.

    Raises:
        CurvatureError: a layer's damped eigenvalues hold a zero or a value that is not finite, or are of something else
            than blocks.
    """
    check_counts(factors)
    curvature = curvature.resolved(factors)
    direction: dict[str, Tensor] = {}
    for layer, module in tracked_layers(model).items():
        if f"{layer}.weight" not in gradients:
            continue
        matrix = layer_matrix(module, gradients[f"{layer}.weight"], gradients.get(f"{layer}.bias"))
        try:
            solved = curvature.precondition(matrix, factors.get(layer, {}))
        except CurvatureError as error:
            raise CurvatureError(f"{layer}: {error}") from None
        direction |= {f"{layer}.{name}": part for name, part in split_layer_matrix(module, solved).items()}
    return direction


def save_direction(direction: Mapping[str, Tensor], directory: Path) -> None:
    save_file({name: value.cpu().contiguous() for name, value in direction.items()}, directory / DIRECTION_FILE)


def load_direction(directory: Path, model: PreTrainedModel) -> dict[str, Tensor]:
    """Load a direction for a model, in the model's dtype and on its device.

    Raises:
        ValueError: names or shapes are not those of the model's tracked parameters.
    """
    direction = load_file(directory / DIRECTION_FILE)
    parameters = tracked_parameters(model)
    wrong = sorted(set(direction) - set(parameters)) or [
        name for name, value in direction.items() if value.shape != parameters[name].shape
    ]
    if wrong:
        raise ValueError(
            f"the direction in {directory} does not fit the model: {len(wrong)} tracked parameters differ, "
            f"the first is {wrong[0]}; it was made with another proxy"
        )
    return {name: value.to(parameters[name]) for name, value in direction.items()}
