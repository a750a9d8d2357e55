"""A forward pass that carries tangents: layers that compute value and directional derivative together.

Forward-mode differentiation (`torch.autograd.forward_ad`) carries duals through the whole model. The rules it derives
for the three operations that cost most are slow (it has none for fused attention), so those have their own here:
linear layers, layer norms, and attention, which goes over queries in chunks that stay in cache. Each rule is a pure
function of values and tangents; where an input has no tangent yet (below the first layer with a direction) only values
are computed.
"""

import types
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.forward_ad import make_dual, unpack_dual
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from ifguide.influence.scorers.base import Direction
from ifguide.models import layer_matrix, tracked_layers

# B blocks, H heads, T tokens, E head size

ATTENTION = "ifguide_tangent"
CHUNK_SCORES = {"cpu": 1 << 19, "cuda": 1 << 27}  # attention scores at a time, over heads and queries
CHUNK_QUERIES = 64
UNSUPPORTED = ("softcap", "s_aux", "position_bias")
Tangent = tuple[Tensor, ...]  # of a layer: (V,) or the factors (A, B) of V ≈ A B, and the bias's where there is one


def carry_tangents(model: PreTrainedModel, *, batched: bool) -> None:
    """Make a model's linear layers, layer norms and attention carry duals. The model is changed for good.

    Args:
        model: a causal language model.
        batched: tangents come from `torch.func.vmap`, which cannot accumulate in place.
    """
    for module in model.modules():
        if type(module) is nn.LayerNorm:
            module.forward = types.MethodType(_layer_norm, module)  # type: ignore[method-assign]
    for layer in tracked_layers(model).values():
        layer.tangent = None  # type: ignore[assignment]
        layer.accumulate = torch.addmm if batched else Tensor.addmm_  # type: ignore[assignment]
        layer.forward = types.MethodType(_linear, layer)  # type: ignore[method-assign]
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)


def layer_tangents(model: PreTrainedModel, direction: Direction, rank: int | None) -> tuple[dict[str, Tangent], float]:
    """A direction as one tangent per layer, as a low-rank product where a rank is given.

    Returns:
        Layer name → tangent; and the share of the direction's norm that the low-rank products leave out.
    """
    tangents: dict[str, Tangent] = {}
    lost, total = 0.0, 0.0
    for name, module in tracked_layers(model).items():
        if f"{name}.weight" not in direction:
            continue
        matrix = layer_matrix(module, direction[f"{name}.weight"], None)
        parts: Tangent = (matrix.contiguous(),)
        total += float(matrix.double().square().sum())
        if rank is not None and rank < min(matrix.shape):
            u, s, v = torch.linalg.svd(matrix.float(), full_matrices=False)
            parts = ((u[:, :rank] * s[:rank]).to(matrix), v[:rank].to(matrix).contiguous())
            lost += float(s[rank:].double().square().sum())
        bias = direction.get(f"{name}.bias")
        tangents[name] = parts if bias is None else (*parts, bias)
    return tangents, (lost / total) ** 0.5 if total else 0.0


@contextmanager
def tangents_installed(model: PreTrainedModel, tangents: dict[str, Tangent]):
    layers = {name: model.get_submodule(name) for name in tangents}
    for name, layer in layers.items():
        layer.tangent = tangents[name]  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in layers.values():
            layer.tangent = None  # type: ignore[assignment]


@contextmanager
def embeddings_moved(model: PreTrainedModel, offset: Tensor):
    handle = model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output + offset)
    try:
        yield
    finally:
        handle.remove()


def _linear(self: Any, x: Tensor) -> Tensor:
    """y = xWᵀ + b, ẏ = ẋWᵀ + xVᵀ + ḃ, each product accumulated into the next."""
    x, x_tangent = unpack_dual(x)
    weight = self.weight if isinstance(self, Conv1D) else self.weight.T  # [inputs, outputs]
    bias = self.bias
    flat = x.flatten(0, -2)
    y = torch.mm(flat, weight) if bias is None else torch.addmm(bias, flat, weight)
    y_tangent = None
    if self.tangent is not None:
        factors, bias_tangent = (self.tangent, None) if bias is None else (self.tangent[:-1], self.tangent[-1])
        inner = flat if len(factors) == 1 else torch.mm(flat, factors[1].T)
        outer = factors[0].T
        y_tangent = torch.mm(inner, outer) if bias_tangent is None else torch.addmm(bias_tangent, inner, outer)
    if x_tangent is not None:
        carried = x_tangent.flatten(0, -2)
        y_tangent = torch.mm(carried, weight) if y_tangent is None else self.accumulate(y_tangent, carried, weight)
    shape = (*x.shape[:-1], weight.shape[1])
    return y.view(shape) if y_tangent is None else make_dual(y.view(shape), y_tangent.view(shape))


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
    return make_dual(y, tangent if self.weight is None else tangent.mul_(self.weight))


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
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
    out, tangent = attention_with_tangent(
        q,
        k,
        v,
        torch.zeros_like(q) if q_tangent is None else q_tangent,
        torch.zeros_like(k) if k_tangent is None else repeat_kv(k_tangent, groups),
        torch.zeros_like(v) if v_tangent is None else repeat_kv(v_tangent, groups),
        scaling=scaling,
        mask=attention_mask,
    )
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
) -> tuple[Tensor, Tensor]:
    """Causal attention o = P v with P = softmax(S), S = a q kᵀ, and its tangent
    ȯ = (P∘Ṡ) v − rowsum(P∘Ṡ) o + P v̇ with Ṡ = a (q̇ kᵀ + q k̇ᵀ).

    Heads and queries are taken in chunks, and keys only as far as a chunk can see, so that memory grows with T, not T².

    Args:
        q, k, v and their tangents: [B, H, T, E].
        scaling: a.
        mask: boolean [B or 1, 1 or H, T, T], True where attention is allowed; None: causal.

    Returns:
        o and ȯ, [B, H, T, E].
    """
    blocks, heads, length, size = q.shape
    budget = CHUNK_SCORES.get(q.device.type, CHUNK_SCORES["cpu"])
    queries = min(length, max(CHUNK_QUERIES, budget // (blocks * heads * length)))
    pairs = max(1, budget // (queries * length))
    # [a | b] [c | d]ᵀ = a cᵀ + b dᵀ: one product each for Ṡ and for (P∘Ṡ) v with its row sums
    both_q, both_k, one_v = (
        torch.cat(parts, -1).reshape(blocks * heads, length, -1)
        for parts in ((q_tangent, q), (k, k_tangent), (v, torch.ones_like(v[..., :1])))
    )
    q, k, v, v_tangent = (x.reshape(blocks * heads, length, size) for x in (q, k, v, v_tangent))
    future = torch.full((queries, queries), float("-inf"), dtype=q.dtype, device=q.device).triu_(1)
    if mask is not None:
        mask = mask.expand(blocks, heads, length, length).reshape(-1, length, length)
    outs, tangents = q.new_empty(v.shape), torch.empty_like(v_tangent)
    for first in range(0, blocks * heads, pairs):
        pair = slice(first, first + pairs)
        for start in range(0, length, queries):
            end = min(start + queries, length)
            scores = _scaled_product(q[pair, start:end], k[pair, :end], scaling)
            if mask is None:
                scores[..., start:] += future[: end - start, : end - start]
            else:
                scores.masked_fill_(~mask[pair, start:end, :end], float("-inf"))
            weights = scores.softmax(-1)
            changes = _scaled_product(both_q[pair, start:end], both_k[pair, :end], scaling).mul_(weights)
            out = torch.bmm(weights, v[pair, :end])
            moved = torch.bmm(changes, one_v[pair, :end])
            tangent = torch.bmm(weights, v_tangent[pair, :end]).add_(moved[..., :size])
            outs[pair, start:end] = out
            tangents[pair, start:end] = tangent.sub_(moved[..., size:] * out)
    return outs.view(blocks, heads, length, size), tangents.view(blocks, heads, length, size)


def _scaled_product(a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """scaling · a bᵀ; the factor goes into the product for free."""
    return torch.baddbmm(a.new_zeros(()), a, b.transpose(1, 2), beta=0, alpha=scaling)
