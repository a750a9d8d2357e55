"""A forward pass that carries tangents: layers that compute value and directional derivative together.

Forward-mode differentiation (`torch.autograd.forward_ad`) carries duals through the whole model. The rules it derives
for the three operations that cost most are slow (it has none for fused attention), so those have their own here:
linear layers, layer norms, and attention, which goes over queries in chunks that stay in cache. Each rule is a pure
function of values and tangents; where an input has no tangent yet (below the first layer with a direction) only values
are computed.
"""

import math
import types
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.forward_ad import make_dual, unpack_dual
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bloom.modeling_bloom import BloomGelu, bloom_gelu_forward

from ifguide.influence.scorers.base import Direction, moves, weight_of
from ifguide.influence.scorers.linear import LinearMap, linear_map
from ifguide.models import layer_matrix, tracked_layers

# B blocks, H heads, T tokens, E head size

ATTENTION = {False: "ifguide_tangent", True: "ifguide_tangents_batched"}  # by whether directions are batched
CHUNK_SCORES = {"cpu": 1 << 19, "cuda": 1 << 27}  # attention scores at a time, over heads and queries
CHUNK_QUERIES = 64
UNSUPPORTED = ("softcap", "s_aux", "position_bias")
Tangent = tuple[Tensor, ...]  # of a layer: (V,) or the factors (A, B) of V ≈ A B, and the bias's where there is one
Maps = tuple[list[LinearMap], Tensor | None]  # the same, ready to be applied


def carry_tangents(model: PreTrainedModel, *, batched: bool) -> None:
    """Make a model's linear layers, layer norms and attention carry duals. The model is changed for good.

    Args:
        model: a causal language model.
        batched: tangents come from `torch.func.vmap`, which knows neither packed products nor buffers.
    """
    for module in model.modules():
        if type(module) is nn.LayerNorm:
            module.forward = types.MethodType(_layer_norm, module)  # type: ignore[method-assign]
    for layer in tracked_layers(model).values():
        matrix = layer_matrix(layer, layer.weight.detach(), None)  # type: ignore[operator]
        layer.map = LinearMap(matrix) if batched else linear_map(matrix)  # type: ignore[assignment]
        layer.tangent = None  # type: ignore[assignment]
        layer.forward = types.MethodType(_linear, layer)
    take_formulas(model)
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION[batched], partial(_attention, reuse=not batched))
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION[batched], sdpa_mask)
    model.set_attn_implementation(ATTENTION[batched])  # what has an attention of its own keeps that


def unfused_attention(model: PreTrainedModel) -> AbstractContextManager[None]:
    """Within it, a model with an attention of its own runs that unfused, as fused kernels have no formula."""
    is_ours = model.config._attn_implementation in ATTENTION.values()
    return nullcontext() if is_ours else sdpa_kernel(SDPBackend.MATH)


def take_formulas(model: PreTrainedModel) -> None:
    """Let a model compute by operations that have forward-mode formulas, where it takes others for speed."""
    model.set_experts_implementation("eager")  # grouped products have none
    for module in model.modules():
        if isinstance(module, BloomGelu):  # whose gradient is written by hand
            module.forward = bloom_gelu_forward


def layer_tangents(model: PreTrainedModel, direction: Direction, rank: int | None) -> tuple[dict[str, Tangent], float]:
    """A direction as one tangent per layer, as a low-rank product where a rank is given.

    Returns:
        Layer name → tangent; and the share of the direction's norm that the low-rank products leave out.
    """
    tangents: dict[str, Tangent] = {}
    lost, total = 0.0, 0.0
    for name, module in tracked_layers(model).items():
        if not moves(direction, name):
            continue
        matrix = layer_matrix(module, weight_of(direction, name, module), None)
        parts: Tangent = (matrix.contiguous(),)
        total += float(matrix.double().square().sum())
        if rank is not None and rank < min(matrix.shape):
            u, s, v = torch.linalg.svd(matrix.float(), full_matrices=False)
            parts = ((u[:, :rank] * s[:rank]).to(matrix), v[:rank].to(matrix).contiguous())
            lost += float(s[rank:].double().square().sum())
        bias = direction.get(f"{name}.bias")
        tangents[name] = parts if bias is None else (*parts, bias)
    return tangents, (lost / total) ** 0.5 if total else 0.0


def tangent_maps(tangents: dict[str, Tangent], with_bias: set[str], *, batched: bool) -> dict[str, Maps]:
    """The tangents ready to be applied; `with_bias` are the names of those that end in a bias's."""
    make = LinearMap if batched else linear_map
    return {
        name: (
            [make(x) for x in (parts[:-1] if name in with_bias else parts)],
            parts[-1] if name in with_bias else None,
        )
        for name, parts in tangents.items()
    }


@contextmanager
def tangents_installed(model: PreTrainedModel, tangents: dict[str, Maps]) -> Iterator[None]:
    layers = {name: model.get_submodule(name) for name in tangents}
    for name, layer in layers.items():
        layer.tangent = tangents[name]  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in layers.values():
            layer.tangent = None  # type: ignore[assignment]


@contextmanager
def embeddings_moved(model: PreTrainedModel, offset: Tensor) -> Iterator[None]:
    handle = model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output + offset)
    try:
        yield
    finally:
        handle.remove()


def _dual(value: Tensor, tangent: Tensor) -> Tensor:
    dual: Tensor = make_dual(value, tangent)
    return dual


def _linear(self: Any, x: Tensor) -> Tensor:
    """y = xWᵀ + b, ẏ = ẋWᵀ + xVᵀ + ḃ."""
    x, x_tangent = unpack_dual(x)
    y, y_tangent = self.map(x, self.bias), None
    if self.tangent is not None:
        (outer, *inner), bias_tangent = self.tangent
        y_tangent = outer(inner[0](x) if inner else x, bias_tangent)
    if x_tangent is not None:
        y_tangent = self.map(x_tangent) if y_tangent is None else self.map.added_to(y_tangent, x_tangent)
    return y if y_tangent is None else _dual(y, y_tangent)


def _layer_norm(self: nn.LayerNorm, x: Tensor) -> Tensor:
    """With x̂ = (x − mean)/σ: ẏ = γ (ẋ − mean(ẋ) − x̂ mean(x̂ ẋ)) / σ."""
    x, x_tangent = unpack_dual(x)
    if x_tangent is None:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
    assert len(self.normalized_shape) == 1
    y, mean, inverse = torch.native_layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
    standard = (x - mean).mul_(inverse)
    projection = (standard * x_tangent).mean(-1, keepdim=True)
    tangent = (x_tangent - x_tangent.mean(-1, keepdim=True)).sub_(standard * projection).mul_(inverse)
    return _dual(y, tangent if self.weight is None else tangent.mul_(self.weight))


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    reuse: bool = True,
    **options: object,
) -> tuple[Tensor, None]:
    """Attention function of transformers; grouped heads are repeated, a mask (sliding window) is honoured."""
    if asked := [name for name in UNSUPPORTED if options.get(name) is not None]:
        raise ValueError(f"this model's attention uses {asked[0]}; use scorer=jvp scorer.form=reference")
    groups = getattr(module, "num_key_value_groups", 1)
    (q, q_tangent), (k, k_tangent), (v, v_tangent) = (unpack_dual(x) for x in (query, key, value))
    k, v = repeat_kv(k, groups), repeat_kv(v, groups)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if q_tangent is None and k_tangent is None and v_tangent is None:
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=attention_mask, is_causal=attention_mask is None, scale=scaling
        )
        return out.transpose(1, 2).contiguous(), None
    found = [
        q_tangent,
        None if k_tangent is None else repeat_kv(k_tangent, groups),
        None if v_tangent is None else repeat_kv(v_tangent, groups),
    ]
    present = [tangent for tangent in found if tangent is not None]
    tangents = [
        torch.zeros_like(x) if tangent is None else tangent for x, tangent in zip((q, k, v), found, strict=True)
    ]
    if not reuse:  # some may not depend on the direction, but what is filled piece by piece has to be batched
        zero = 0 * sum(tangent[..., :1] for tangent in present)
        tangents = [tangent + zero for tangent in tangents]
    out, tangent = attention_with_tangent(q, k, v, *tangents, scaling=scaling, mask=attention_mask, reuse=reuse)
    return make_dual(out.transpose(1, 2).contiguous(), tangent.transpose(1, 2).contiguous()), None


def attention_with_tangent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_tangent: Tensor,
    k_tangent: Tensor,
    v_tangent: Tensor,
    *,
    scaling: float,
    mask: Tensor | None = None,
    reuse: bool = True,
) -> tuple[Tensor, Tensor]:
    """Causal attention o = P v with P = softmax(S), S = a q kᵀ, and its tangent
    ȯ = (P∘Ṡ) v − rowsum(P∘Ṡ) o + P v̇ with Ṡ = a (q̇ kᵀ + q k̇ᵀ).

    Heads and queries are taken in chunks, and keys only as far as a chunk can see, so that memory grows with T, not T².

    Args:
        q, k, v and their tangents: [B, H, T, E]; values may have another E.
        scaling: a.
        mask: boolean [B or 1, 1 or H, T, T], True where attention is allowed; None: causal.
        reuse: let chunks share their memory; tangents batched by vmap cannot.

    Returns:
        o and ȯ, [B, H, T, E] of the values.
    """
    (blocks, heads, length, size), width = q.shape, v.shape[-1]
    budget = CHUNK_SCORES.get(q.device.type, CHUNK_SCORES["cpu"])
    queries = min(length, max(CHUNK_QUERIES, budget // (blocks * heads * length)))
    pairs = max(1, budget // (queries * length))
    room = _Room(q if reuse else None)
    both_q, both_k = (  # q̇ kᵀ + q k̇ᵀ = [q̇ q] [k k̇]ᵀ, in one product
        torch.cat(parts, -1).reshape(blocks * heads, length, 2 * size) for parts in ((q_tangent, q), (k, k_tangent))
    )
    q, k, v, v_tangent = (x.reshape(blocks * heads, length, x.shape[-1]) for x in (q, k, v, v_tangent))
    future = torch.full((queries, queries), float("-inf"), dtype=q.dtype, device=q.device).triu_(1)
    if mask is not None:
        mask = mask.expand(blocks, heads, length, length).reshape(-1, length, length)
    outs, tangents = q.new_empty(v.shape), torch.empty_like(v_tangent)
    for first in range(0, blocks * heads, pairs):
        pair = slice(first, first + pairs)
        for start in range(0, length, queries):
            end = min(start + queries, length)
            shape = (len(q[pair]), end - start, end)
            scores = _scaled_product(q[pair, start:end], k[pair, :end], scaling, room("scores", shape))
            if mask is None:
                scores[..., start:].add_(future[: end - start, : end - start])
            else:
                scores.masked_fill_(~mask[pair, start:end, :end], float("-inf"))
            weights = torch.softmax(scores, -1, out=room("weights", shape))
            changes = _scaled_product(both_q[pair, start:end], both_k[pair, :end], scaling, room("scores", shape))
            out = torch.bmm(weights, v[pair, :end], out=room("out", (*shape[:2], width)))
            sums = changes.mul_(weights).sum(-1, keepdim=True)
            carried = torch.bmm(weights, v_tangent[pair, :end], out=room("carried", (*shape[:2], width)))
            tangent = torch.baddbmm(carried, changes, v[pair, :end], out=room("carried", (*shape[:2], width)))
            outs[pair, start:end] = out
            tangents[pair, start:end] = tangent.sub_(sums * out)
    return outs.view(blocks, heads, length, width), tangents.view(blocks, heads, length, width)


def _scaled_product(a: Tensor, b: Tensor, scaling: float, out: Tensor | None) -> Tensor:
    """scaling · a bᵀ; the factor goes into the product for free."""
    return torch.baddbmm(a.new_zeros(()), a, b.transpose(1, 2), beta=0, alpha=scaling, out=out)


class _Room:
    """Memory by name, used again: the page faults of fresh memory cost as much as the arithmetic on it."""

    def __init__(self, like: Tensor | None) -> None:
        self._like, self._taken = like, dict[str, Tensor]()

    def __call__(self, name: str, shape: tuple[int, ...]) -> Tensor | None:
        if self._like is None:
            return None
        size = math.prod(shape)
        if name not in self._taken or len(self._taken[name]) < size:
            self._taken[name] = self._like.new_empty(size)
        return self._taken[name][:size].view(shape)
