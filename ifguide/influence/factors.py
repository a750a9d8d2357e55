"""The factors of a curvature: what each strategy keeps of a layer, and the file that holds them.

They are kept in one safetensors file, `factors.safetensors`, with keys `<layer>/<factor>`.
"""

import statistics
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

FACTORS_FILE = "factors.safetensors"
SIDES = ("gradient", "activation")  # of outputs, of inputs
EIGENVECTORS = ("activation_eigenvectors", "gradient_eigenvectors")
EIGENVALUES = ("activation_eigenvalues", "gradient_eigenvalues")
LAMBDA = ("lambda_matrix", "num_lambda_processed")
FACTORS: dict[str, tuple[str, ...]] = {  # what each strategy keeps of a layer, under kronfluence's names
    "ekfac": (*EIGENVECTORS, *LAMBDA),
    "kfac": (*EIGENVECTORS, *EIGENVALUES),
    "sequence_kronecker": (*EIGENVECTORS, *EIGENVALUES),
    "eshampoo": (*EIGENVECTORS, *LAMBDA),
    "diagonal": LAMBDA,
    "identity": (),
}


class CurvatureError(ValueError):
    """The factors cannot be used: not finite, or zero where something must be divided by them."""


def save_factors(factors: Mapping[str, Tensor], directory: Path) -> None:
    save_file({key: value.contiguous() for key, value in factors.items()}, directory / FACTORS_FILE)


def load_factors(directory: Path) -> dict[str, dict[str, Tensor]]:
    return by_layer(load_file(directory / FACTORS_FILE))


def by_layer(factors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Layer → factor name → tensor, from what `Curvature.fit` returns."""
    nested: dict[str, dict[str, Tensor]] = {}
    for key, value in factors.items():
        layer, _, name = key.rpartition("/")
        nested.setdefault(layer, {})[name] = value
    return nested


def check_counts(factors: Mapping[str, Mapping[str, Tensor]], blocks: int | None = None) -> None:
    """Raise CurvatureError where the eigenvalues of a layer are means over anything else than blocks.

    Args:
        factors: layer → factors.
        blocks: number of blocks; None: the number of most layers.
    """
    counts = {layer: int(parts[LAMBDA[1]]) for layer, parts in factors.items() if LAMBDA[1] in parts}
    right = blocks or (statistics.mode(counts.values()) if counts else 0)
    if wrong := [layer for layer, count in counts.items() if count != right]:
        raise CurvatureError(
            f"{wrong[0]} counts {counts[wrong[0]]} examples where there are {right} blocks, so its eigenvalues are of "
            "something else; leave it out (influence.layers), or use curvature=kfac; remove factors of older versions"
        )
