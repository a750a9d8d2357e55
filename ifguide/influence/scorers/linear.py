"""Linear maps that are applied many times: packed once for the matrix kernels of a CPU, fused with what follows."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import GELUActivation, GELUTanh, NewGELUActivation, SiLUActivation

# activation → its name in oneDNN, and the algorithm where there are several
FUSED = {
    GELUActivation: ("gelu", "none"),
    NewGELUActivation: ("gelu", "tanh"),
    GELUTanh: ("gelu", "tanh"),
    SiLUActivation: ("swish", ""),
    nn.SiLU: ("swish", ""),
    nn.ReLU: ("relu", ""),
}


class LinearMap:
    """x ↦ a(xWᵀ + b), with a bias and an activation where they are given.

    Args:
        weight: W, [outputs, inputs].
        activation: a; one of `FUSED`.
    """

    def __init__(self, weight: Tensor, activation: nn.Module | None = None) -> None:
        self.weight, self.activation = weight, activation

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y = F.linear(x, self.weight, bias)
        return y if self.activation is None else self.activation(y)

    def added_to(self, y: Tensor, x: Tensor) -> Tensor:
        """y + xWᵀ, in place of y where autograd and vmap leave that open."""
        flat = torch.addmm(y.flatten(0, -2), x.flatten(0, -2), self.weight.T)
        return flat.view(y.shape)


class PackedLinearMap(LinearMap):
    """The same through oneDNN, which for float32 on CPUs is faster than the default, the more so with an activation."""

    def __init__(self, weight: Tensor, activation: nn.Module | None = None) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(weight.contiguous()))
        self.fused = ("none", "") if activation is None else FUSED[type(activation)]

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        kind, algorithm = self.fused
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, bias, kind, [], algorithm)
        return y

    def added_to(self, y: Tensor, x: Tensor) -> Tensor:
        return y.add_(self(x))


def can_pack(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def linear_map(weight: Tensor, activation: nn.Module | None = None) -> LinearMap:
    return PackedLinearMap(weight, activation) if can_pack(weight) else LinearMap(weight, activation)


def activations_behind(
    model: nn.Module, layers: Mapping[str, nn.Module], run: Callable[[], Any]
) -> dict[str, nn.Module]:
    """Layer name → the activation that takes its output and nothing else, as seen while `run` runs the model once."""
    outputs: list[Any] = []  # kept, so that no two share an address
    source: dict[int, str] = {}
    taken: dict[nn.Module, set[str | None]] = {}
    handles = []
    for name, layer in layers.items():

        def note_output(_: nn.Module, __: Any, output: Tensor, name: str = name) -> None:
            outputs.append(output)
            source[id(output)] = name

        handles.append(layer.register_forward_hook(note_output))
    for module in model.modules():
        if type(module) in FUSED:
            handles.append(
                module.register_forward_pre_hook(
                    lambda module, inputs: taken.setdefault(module, set()).add(source.get(id(inputs[0])))
                )
            )
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    only = {module: next(iter(names)) for module, names in taken.items() if len(names) == 1}
    return {name: module for module, name in only.items() if name is not None}
