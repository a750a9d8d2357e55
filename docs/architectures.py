"""Write `docs/architectures.md`: what works with which architecture, measured on tiny random models.

python docs/architectures.py [architecture …]    with names: their rows, to the screen
"""

import copy
import logging
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ifguide.decoding.cached import fault_of_cache
from ifguide.influence.curvature import Curvature
from ifguide.influence.factors import by_layer
from ifguide.influence.scorers import JVP, FiniteDifference, Scorer
from ifguide.influence.scorers.check import gradient_sizes, prepare_checked, random_direction, relative_error
from ifguide.influence.scorers.exact import reverse_scores
from ifguide.models import implementations, layer_matrix, linear_copy, tracked_layers, untracked
from ifguide.objectives.language_modeling import token_losses
from ifguide.opening import check_causal

PAGE = Path(__file__).with_name("architectures.md")
VOCABULARY, SIZE = 60, (2, 8)  # of the models; blocks × tokens

S = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, max_position_embeddings=64)
G = S | dict(num_key_value_heads=1)
M = G | dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
L = G | dict(num_local_experts=4, num_experts_per_tok=2)
N = dict(n_embd=32, n_layer=2, n_head=2, n_positions=64)
MLA = M | dict(
    num_key_value_heads=2, kv_lora_rank=8, q_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=12,
    n_routed_experts=4, n_shared_experts=1, first_k_dense_replace=1, topk_group=1, n_group=1,
)  # fmt: skip
MAMBA = dict(hidden_size=32, num_hidden_layers=2, state_size=4, intermediate_size=48)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt_neox": S,
    "gpt2": N,
    "llama": G,
    "mistral": G | dict(sliding_window=4),
    "qwen2": G,
    "qwen3": G | dict(head_dim=16),
    "gemma": G | dict(head_dim=16),
    "gemma2": G | dict(head_dim=16, sliding_window=4),
    "gemma3_text": G | dict(head_dim=16, sliding_window=4),
    "phi": S,
    "phi3": G | dict(pad_token_id=0),
    "olmo": G,
    "olmo2": G,
    "stablelm": G,
    "starcoder2": G,
    "smollm3": G | dict(pad_token_id=0),
    "cohere": G | dict(pad_token_id=0),
    "granite": G | dict(logits_scaling=2.0),
    "glm4": G | dict(head_dim=16, pad_token_id=0),
    "nemotron": G,
    "persimmon": S,
    "exaone4": G | dict(sliding_window=4),
    "ernie4_5": G | dict(head_dim=16),
    "helium": G | dict(head_dim=16),
    "diffllama": G | dict(num_key_value_heads=2),
    "opt": S | dict(ffn_dim=48, word_embed_proj_dim=32),
    "bloom": dict(hidden_size=32, n_layer=2, n_head=2),
    "falcon": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2),
    "gptj": N | dict(rotary_dim=8),
    "codegen": N | dict(n_head=4, rotary_dim=4),
    "gpt_neo": dict(
        hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=4,
        max_position_embeddings=64, intermediate_size=48,
    ),
    "gpt_bigcode": N,
    "mpt": dict(d_model=32, n_layers=2, n_heads=2, max_seq_len=64, expansion_ratio=2),
    "xglm": dict(d_model=32, num_layers=2, attention_heads=2, ffn_dim=48, max_position_embeddings=64),
    "biogpt": S,
    "ctrl": dict(n_embd=32, n_layer=2, n_head=2, dff=48, n_positions=64),
    "openai-gpt": N,
    "modernbert-decoder": S | dict(local_attention=4, pad_token_id=0, cls_token_id=0, sep_token_id=0),
    "qwen2_moe": M | dict(shared_expert_intermediate_size=24, decoder_sparse_step=1),
    "qwen3_moe": M | dict(head_dim=16, decoder_sparse_step=1),
    "mixtral": L,
    "olmoe": G | dict(num_experts=4, num_experts_per_tok=2),
    "granitemoe": L,
    "phimoe": L,
    "gpt_oss": L | dict(head_dim=16, sliding_window=4),
    "deepseek_v2": MLA,
    "deepseek_v3": MLA,
    "llama4_text": L | dict(
        num_hidden_layers=4, intermediate_size_mlp=48, num_experts_per_tok=1, interleave_moe_layer_step=2, head_dim=16,
        attention_chunk_size=4, pad_token_id=0,
    ),
    "qwen3_next": M | dict(
        num_hidden_layers=4, head_dim=16, linear_num_value_heads=2, linear_num_key_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8, shared_expert_intermediate_size=24, decoder_sparse_step=1,
    ),
    "jamba": G | dict(
        num_hidden_layers=4, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1,
        num_experts=4, mamba_d_state=4, mamba_dt_rank=4, use_mamba_kernels=False,
    ),
    "dbrx": dict(
        d_model=32, n_heads=2, n_layers=2, max_seq_len=64,
        attn_config=dict(kv_n_heads=1, clip_qkv=8.0, rope_theta=1e4),
        ffn_config=dict(ffn_hidden_size=24, moe_num_experts=4, moe_top_k=2, hidden_size=32),
    ),
    "jetmoe": L | dict(num_key_value_heads=2, kv_channels=16),
    "lfm2": G | dict(full_attn_idxs=[1], block_ff_dim=48, block_auto_adjust_ff_dim=False, pad_token_id=0),
    "minimax": L | dict(head_dim=16, block_size=4),
    "mamba": MAMBA,
    "falcon_mamba": MAMBA,
    "mamba2": MAMBA | dict(state_size=8, num_heads=4, head_dim=16, n_groups=2, chunk_size=4, expand=2),
    "recurrent_gemma": G | dict(num_hidden_layers=3, lru_width=32, attention_window_size=8),
    "rwkv": dict(
        hidden_size=32, attention_hidden_size=32, num_hidden_layers=2, intermediate_size=48, context_length=64
    ),
    "bert": S,
    "xlnet": dict(d_model=32, n_layer=2, n_head=2, d_inner=48),
}  # fmt: skip
LAYERS = dict.fromkeys(("jamba", "mamba", "falcon_mamba"), ".[^d]._proj")  # a second row, of these
SCORERS: Mapping[str, Scorer] = {"fast": JVP(), "differences": FiniteDifference(), "reference": JVP("reference")}

HEAD = """<!-- generated: python docs/architectures.py -->
# Architectures

What works with which architecture of `transformers` {version}, measured on random models of two to four decoder
blocks in float32. An error is ‖ours − expected‖ / ‖expected‖, where what is expected comes from a backward pass for
each token (scores) or for each block (curvature). *Refused* is one line before anything is scored, numbered below.

- **tracked**: share of the parameters in the decoder blocks that are of linear layers; influence is about these.
- **curvature**: largest error of a layer's eigenvalues, with `curvature=ekfac`.
- **fast**: `scorer=jvp`. **differences**: `scorer=finite_difference`. **reference**: with `scorer.form=reference`.
- **generation**: whether the model's cache gives what the whole text gives. Where it does not, it is not used: slower,
  the same samples.

Every run makes the check of its scorer again, on its own model and direction: `self_check` in the manifest of the
scores. A model that an adapter of PEFT wraps is refused; merge it first (`model.merge_and_unload()`). The experts of a
mixture are tracked where they are linear layers, not where they are one tensor: then the share is said when the
curvature is fitted. `model.experts_implementation=eager` chooses how they are computed; the exact scorers compute them
so by themselves.

| architecture | tracked | curvature | fast | differences | reference | generation |
|---|---|---|---|---|---|---|
"""


class Notes:
    """Refusals, each once, by number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def refused(self, error: Exception | str) -> str:
        text = " ".join(str(error).split()).replace("|", "\\|").replace("<", "&lt;")
        for digits in (
            r"(?:[\w-]+\.)+\d+\.",
            r"(?<=only )[0-9.-]+",
            r"(?<=by )[0-9.e+-]+(?=[, ])",
            r"(?<=size )[0-9.e+-]+",
        ):
            text = re.sub(digits, "…", text)
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"


def make(name: str) -> tuple[PreTrainedModel, str]:
    """A random model, and the setting that it needs.

    Raises:
        ValueError: it is not causal.
    """
    ids = {"bos_token_id": 0, "eos_token_id": 0, "vocab_size": VOCABULARY}
    for attention in ("sdpa", "eager"):
        torch.manual_seed(0)
        config = AutoConfig.for_model(name, **ids, **ARCHITECTURES[name])
        try:
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **implementations(attention, None))
            break
        except ValueError:
            if attention == "eager":
                raise
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    check_causal(model, f"model.architecture={name}")
    return model.eval(), "" if attention == "sdpa" else " with `model.attention=eager`"


def row(name: str, notes: Notes, layers: str | None = None) -> str:
    """The line of the table."""
    setting = f", `'influence.layers=\"{layers}\"'`" if layers else ""
    try:
        model, needed = make(name)
        share = f"{untracked(model)[0]:.0%}"
        names = list(tracked_layers(model, match=layers))
    except ValueError as error:
        return f"| `{name}`{setting} | refused {notes.refused(error)} | | | | | |"
    blocks = torch.randint(2, VOCABULARY, SIZE, generator=torch.Generator().manual_seed(1))
    parameters = [key for key, _ in model.named_parameters() if key.rpartition(".")[0] in names]
    sizes, _ = gradient_sizes(copy.deepcopy(model), parameters, blocks)
    direction = random_direction(model, sizes, seed=3)
    expected = reverse_scores(copy.deepcopy(model), direction, blocks)

    def scored(scorer: Scorer) -> float:
        ours = prepare_checked(scorer, copy.deepcopy(model), [direction], blocks)(blocks)[0]
        return relative_error(ours, expected)

    cells = [cell(notes, lambda: curvature_error(copy.deepcopy(model), names, blocks))]
    cells += [cell(notes, lambda scorer=scorer: scored(scorer)) for scorer in SCORERS.values()]  # type: ignore[misc]
    fault = fault_of_cache(copy.deepcopy(model), blocks[:, :4])
    generation = "with its cache" if fault is None else f"without a cache {notes.refused(fault)}"
    return " | ".join([f"| `{name}`{needed}{setting}", share, *cells, generation]) + " |"


def cell(notes: Notes, measure: Callable[[], float]) -> str:
    try:
        error = measure()
    except ValueError as refusal:
        return f"refused {notes.refused(refusal)}"
    return f"{'exact' if error < 1e-3 else 'close'} ({error:.0e})"


def curvature_error(model: PreTrainedModel, names: Sequence[str], blocks: Tensor) -> float:
    """Largest relative error of a layer's eigenvalues beside squares of block gradients in the same eigenbasis."""
    curvature = Curvature(empirical_fisher=True)
    factors = by_layer(curvature.fit(model, blocks.numpy(), batch_size=2, seed=0, layers=names, progress=False))
    clone = linear_copy(model)
    expected = dict.fromkeys(names, torch.zeros(()))
    for block in blocks:
        loss = token_losses(clone(input_ids=block[None], use_cache=False).logits, block[None]).sum()
        for name in names:
            layer = clone.get_submodule(name)
            leaves = [layer.get_parameter(key) for key, _ in layer.named_parameters()]
            found = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
            matrix = layer_matrix(layer, found[0], found[1] if len(found) > 1 else None)
            rotated = factors[name]["gradient_eigenvectors"].T @ matrix @ factors[name]["activation_eigenvectors"]
            expected[name] = expected[name] + rotated.square() / len(blocks)
    return max(
        relative_error(factors[name]["lambda_matrix"] / factors[name]["num_lambda_processed"], expected[name])
        for name in names
    )


def table(names: Sequence[str]) -> str:
    notes = Notes()
    lines = []
    for name in names:
        for layers in (None, LAYERS[name]) if name in LAYERS else (None,):
            lines.append(row(name, notes, layers))
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join([*lines, "", *(f"{number}. {text}" for number, text in enumerate(notes.texts, 1))]) + "\n"


def main() -> None:
    import transformers

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if chosen := sys.argv[1:]:
        print(table(chosen))
    else:
        PAGE.write_text(HEAD.format(version=transformers.__version__) + table(list(ARCHITECTURES)), encoding="utf-8")


if __name__ == "__main__":
    main()
