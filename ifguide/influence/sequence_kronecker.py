"""Kronecker factors of whole sequences, which keep what the tokens of a sequence have in common.

K-FAC takes a layer's inputs a and output gradients δ of single tokens for independent. Here a sequence's gradient
W = Σ_t δ_t a_tᵀ is kept whole, with the terms between its tokens: L = E[W Wᵀ], R = E[Wᵀ W], and
G ≈ L ⊗ R / tr(L). Both have the trace E‖W‖², and so has this G, as E[vec W vec Wᵀ] has; where that is a Kronecker
product A ⊗ B, L = A tr(B) and R = B tr(A), and G is exact. (The factors are Shampoo's, Gupta et al., 2018. LANCET's
LinFAC, arXiv 2412.16451, is described as keeping whole sequences per module; its formula is not known to us.)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from ifguide.models import layer_matrix
from ifguide.processes import ALONE, Processes

LEFT, RIGHT = "left", "right"  # sums of W Wᵀ and of Wᵀ W

# O outputs, I inputs (+ 1 where there is a bias); N blocks, T tokens


def trace_normalised_factors(left_OO: Tensor, right_II: Tensor) -> dict[str, Tensor]:
    """Eigendecompositions of L / tr(L) and of R, under the names of K-FAC's: products of their eigenvalues are G's."""
    found: dict[str, Tensor] = {}
    for name, matrix in (("gradient", left_OO / left_OO.trace()), ("activation", right_II)):
        values, vectors = torch.linalg.eigh(matrix.double())
        found |= {f"{name}_eigenvectors": vectors.to(matrix), f"{name}_eigenvalues": values.to(matrix)}
    return found


def block_gradients(
    model: nn.Module,
    layers: Sequence[str],
    blocks_NT: NDArray[np.int64],
    loss: Callable[[Tensor], Tensor],
    pass_over: Callable[[Tensor], None] = lambda ids_1T: None,
    *,
    progress: bool = False,
    processes: Processes = ALONE,
) -> Iterator[dict[str, Tensor]]:
    """Layer → the gradient of a whole block, [O, I], block by block, each by one backward pass.

    Args:
        model: on the device that computes; parameters of the layers are made to require gradients.
        layers: names of its linear layers.
        blocks_NT: token ids.
        loss: [1, T] token ids → the sum of the losses of their tokens.
        pass_over: called with the token ids of a block that another process takes.
        progress: show a progress bar.
        processes: among which the blocks are shared.
    """
    modules = {name: model.get_submodule(name) for name in layers}
    parameters = {
        f"{layer}.{name}": parameter.requires_grad_(True)
        for layer, module in modules.items()
        for name, parameter in module.named_parameters(recurse=False)
    }
    device = next(iter(parameters.values())).device
    blocks = torch.from_numpy(np.ascontiguousarray(blocks_NT)).to(device)
    for number, ids_T in enumerate(tqdm(blocks, "Factors", disable=not progress)):
        if not processes.takes(number):
            pass_over(ids_T[None])
            continue
        found = torch.autograd.grad(
            loss(ids_T[None]), list(parameters.values()), allow_unused=True, materialize_grads=True
        )
        gradients = dict(zip(parameters, found, strict=True))
        yield {
            layer: layer_matrix(module, gradients[f"{layer}.weight"], gradients.get(f"{layer}.bias"))
            for layer, module in modules.items()
        }


def sequence_factors(
    gradients: Iterable[Mapping[str, Tensor]], count: int, processes: Processes = ALONE
) -> dict[str, Tensor]:
    """Factors of each layer.

    Args:
        gradients: `block_gradients`.
        count: of the blocks, of all processes together.
        processes: whose sums are added.

    Returns:
        `<layer>/<factor>` → tensor, in the model's dtype.

    Raises:
        ValueError: a layer's gradients are not finite, or 0 on all blocks.
    """
    sums: dict[str, Tensor] = {}
    for layer, whole_OI in chain.from_iterable(one.items() for one in gradients):
        for key, half in ((f"{layer}/{LEFT}", whole_OI), (f"{layer}/{RIGHT}", whole_OI.T)):
            sums.setdefault(key, half.new_zeros(len(half), len(half))).addmm_(half, half.T, alpha=1 / count)
    sums = processes.sums(sums)
    layers = sorted({key.rpartition("/")[0] for key in sums})
    for layer in layers:
        size = float(sums[f"{layer}/{LEFT}"].trace())
        if not 0 < size < float("inf"):
            raise ValueError(
                f"the gradients of {layer} on {count} blocks have a mean square of {size:g}: leave it out "
                "(influence.layers), or check the proxy"
            )
    mine: dict[str, Tensor] = {}
    for layer in processes.share(layers):
        parts = trace_normalised_factors(sums[f"{layer}/{LEFT}"], sums[f"{layer}/{RIGHT}"])
        mine |= {f"{layer}/{name}": value for name, value in parts.items()}
    return processes.sums(mine)


def corrected_eigenvalues(
    gradients: Iterable[Mapping[str, Tensor]], factors: Mapping[str, Tensor], processes: Processes = ALONE
) -> dict[str, Tensor]:
    """Second moments of the blocks' gradients in the factors' eigenbases, summed over blocks, under kronfluence's
    names: eigenvalue-corrected Shampoo.

    Args:
        gradients: `block_gradients`.
        factors: `<layer>/<factor>` → tensor.
        processes: whose sums are added.
    """
    found: dict[str, Tensor] = {}
    for layer, whole_OI in chain.from_iterable(one.items() for one in gradients):
        outputs, inputs = (factors[f"{layer}/{name}_eigenvectors"] for name in ("gradient", "activation"))
        square_OI = (outputs.T @ whole_OI @ inputs).square_()
        key, count = f"{layer}/lambda_matrix", f"{layer}/num_lambda_processed"
        found[key] = found[key].add_(square_OI) if key in found else square_OI
        found[count] = found.get(count, torch.zeros(1, dtype=torch.int64)) + 1
    return processes.sums(found)
