"""Build or load a causal language model; find the linear layers that influence tracks."""

import copy
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.pytorch_utils import Conv1D

from ifguide.checks import check_seed
from ifguide.hardware import FLOAT32
from ifguide.opening import check_causal, check_configuration, check_loaded, check_pretrained, has_dropout, loading

MOST = 0.9  # of the parameters in the decoder blocks: what tracks less says so


@dataclass(frozen=True)
class ModelSettings:
    """A causal language model: built from an architecture, or loaded; and how models of its kind are loaded again.

    Args:
        architecture: model type of transformers, as in `gpt_neox`, `gpt2`, `llama`; not needed with `pretrained`.
        settings: configuration of a new model. A `vocab_size` of None or absent becomes the tokenizer's size,
            rounded up to a multiple of 64.
        pretrained: a hub name or a local folder; its weights are loaded in float32.
        attention, experts_implementation, trust_remote_code: see `LoadOptions`.
        seed: of a new model's initial weights, of the order of the blocks and of dropout.

    Raises:
        ValueError: neither architecture nor pretrained, or a seed that is none.
    """

    NOT_SETTINGS: ClassVar[tuple[str, ...]] = ("attention", "experts_implementation", "trust_remote_code")

    architecture: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
    attention: str = "sdpa"
    trust_remote_code: bool = False
    seed: int = 0
    experts_implementation: str | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.architecture is None and self.pretrained is None:
            raise ValueError("architecture=None: a model needs one, or a folder or hub name in `pretrained`")

    @property
    def load_options(self) -> "LoadOptions":
        return LoadOptions(self.attention, self.trust_remote_code, self.experts_implementation)

    @property
    def has_dropout(self) -> bool:
        """Whether training draws random numbers, as far as the configuration tells; False where there is none."""
        return has_dropout(self.architecture, self.settings, self.pretrained, self.trust_remote_code)

    def check(self, name: str) -> None:
        """Raise ValueError where the pretrained model is not there, or a new one would not be what its settings say;
        `name` is what the caller calls these settings."""
        check_pretrained(self.pretrained, f"{name}.pretrained")
        if self.pretrained is None:
            check_configuration(str(self.architecture), self.settings, name)

    def build(self, vocabulary: int, end_of_text: int | None) -> PreTrainedModel:
        """The model, in float32.

        Args:
            vocabulary: number of token ids the tokenizer can produce.
            end_of_text: id of the end-of-text token, written into a new model's configuration.

        Raises:
            ValueError: unknown architecture, missing folder, or a vocabulary that the model cannot represent.
        """
        if self.pretrained is not None:
            with loading(f"pretrained={self.pretrained}"):
                model = self.load(self.pretrained)
        else:
            assert self.architecture is not None  # checked when it was made
            values = dict(self.settings)
            values["vocab_size"] = values.get("vocab_size") or -(-vocabulary // 64) * 64
            config = AutoConfig.for_model(
                self.architecture, **values, bos_token_id=end_of_text, eos_token_id=end_of_text, pad_token_id=None
            )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                with loading(f"architecture={self.architecture}"):
                    model = AutoModelForCausalLM.from_config(
                        config, dtype=torch.float32, **implementations(self.attention, self.experts_implementation)
                    )
            check_causal(model, f"architecture={self.architecture}")
        check_vocabulary(model, vocabulary)
        return model

    def config(self, vocabulary: int, end_of_text: int | None, pretrained: str | None = None) -> PreTrainedConfig:
        """The configuration of the model, or of another pretrained one that is loaded as it is, without its weights."""
        name = pretrained or self.pretrained
        if name is not None:
            found: PreTrainedConfig = AutoConfig.from_pretrained(name, trust_remote_code=self.trust_remote_code)
            return found
        with torch.device("meta"):
            return self.build(vocabulary, end_of_text).config

    def load(self, path: str | Path, device: torch.device | str | None = None) -> PreTrainedModel:
        """A model of this kind from another folder, in float32; on a device, where one is given, in evaluation mode."""
        model = load_model(path, **asdict(self.load_options))
        return model if device is None else model.to(device).eval()  # type: ignore[arg-type]


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded; a model's folder does not say, and none of it decides a weight.

    Args:
        attention: attention implementation of transformers.
        trust_remote_code: run model code from the hub; only ever when asked for.
        experts_implementation: of a mixture of experts, as in `eager` or `grouped_mm`; None: what transformers takes.
        dtype: `float32`, or `bfloat16` for what is read alone.
    """

    attention: str = "sdpa"
    trust_remote_code: bool = False
    experts_implementation: str | None = None
    dtype: str = FLOAT32


def load_model(
    path: str | Path,
    *,
    attention: str = "sdpa",
    trust_remote_code: bool = False,
    experts_implementation: str | None = None,
    dtype: str = FLOAT32,
) -> PreTrainedModel:
    """Load a causal language model from a folder or the hub; see `LoadOptions`.

    Raises:
        ValueError: weights that are missing, not of this configuration or not finite, or a model that is not causal.
    """
    opened: Any = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=getattr(torch, dtype),
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
        **implementations(attention, experts_implementation),
    )
    model: PreTrainedModel = opened[0]
    check_loaded(model, opened[1], str(path))
    check_causal(model, str(path))
    return model


def implementations(attention: str, experts: str | None) -> dict[str, str]:
    """The arguments of transformers for them; experts are named to models that have some only."""
    return {"attn_implementation": attention} | ({} if experts is None else {"experts_implementation": experts})


def check_vocabulary(model: PreTrainedModel, vocabulary: int) -> None:
    """Raise ValueError where the tokenizer makes ids that the model has no embedding for."""
    rows = model.get_input_embeddings().weight.size(0)  # type: ignore[operator]
    if vocabulary > rows:
        raise ValueError(
            f"the tokenizer has {vocabulary} tokens but the model's vocabulary is {rows}; choose the model's own "
            "tokenizer (data.tokenizer.path) or a model with `settings.vocab_size` of at least that"
        )


def decoder_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the repeated decoder blocks: the outermost ModuleList of `num_hidden_layers` modules that are equal or have
    linear layers.

    Raises:
        ValueError: the model has none, so influence would not know what to track; or it has an adapter.
    """
    if hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"{type(model).__name__} has an adapter of PEFT, whose layers are not its own; merge it: "
            "model.merge_and_unload()"
        )
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            has_layers = all(any(map(_is_linear, block.modules())) for block in module)
            if has_layers or len({type(block) for block in module}) == 1:
                return name, module
    raise ValueError(f"{type(model).__name__} has no list of {count} decoder blocks, so no layer can be tracked")


def final_norm(model: nn.Module) -> nn.Module:
    """Find the normalisation between the decoder blocks and the output head: beside the blocks, the one module whose
    weight is a vector.

    Raises:
        ValueError: there is none, or more than one.
    """
    blocks, _ = decoder_blocks(model)
    beside = model.get_submodule(blocks.rpartition(".")[0]).named_children()
    norms = {name: child for name, child in beside if getattr(getattr(child, "weight", None), "ndim", 0) == 1}
    if len(norms) != 1:
        raise ValueError(f"{type(model).__name__}: one final norm is expected beside `{blocks}`, not {list(norms)}")
    return next(iter(norms.values()))


def tracked_layers(
    model: nn.Module, *, match: str | None = None, last_blocks: int | None = None
) -> dict[str, nn.Module]:
    """Name → module of every `nn.Linear` and `Conv1D` inside the decoder blocks, in the model's order.

    Never the output head (tied or not), embeddings or norms, whatever they are called.

    Args:
        model: a causal language model.
        match: only layers in whose name this regular expression is found, as in `mlp`.
        last_blocks: only the last so many decoder blocks.

    Raises:
        ValueError: more blocks than there are, or no layer is left.
    """
    prefix, blocks = decoder_blocks(model)
    if last_blocks is not None and last_blocks > len(blocks):
        raise ValueError(f"influence.last_blocks={last_blocks}: the model has {len(blocks)}; null for all")
    first = 0 if last_blocks is None else len(blocks) - last_blocks
    linear = {name: module for name, module in blocks.named_modules() if _is_linear(module)}
    layers: dict[str, nn.Module] = {
        f"{prefix}.{name}": module
        for name, module in linear.items()
        if int(name.split(".")[0]) >= first and (match is None or re.search(match, name))
    }
    if not layers:
        every = sorted({name.partition(".")[2] for name in linear})
        raise ValueError(
            f"{type(model).__name__} has no layer for influence.layers={match}, influence.last_blocks={last_blocks}; "
            f"the linear layers of its decoder blocks are {', '.join(every) or 'none'}"
        )
    return layers


def _is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer and computes no more than one, as a router does that is made of one."""
    is_plain = type(module).forward in (nn.Linear.forward, FalconLinear.forward)
    return isinstance(module, Conv1D) or (isinstance(module, nn.Linear) and is_plain)


def tracked_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name → parameter (weights and biases) of the tracked layers."""
    return {
        f"{layer}.{name}": parameter
        for layer, module in tracked_layers(model).items()
        for name, parameter in module.named_parameters(recurse=False)
    }


def untracked(model: nn.Module) -> tuple[float, str | None]:
    """The share of the parameters in the decoder blocks that are of tracked layers; and the largest other parameter,
    where that share is below `MOST`, as with the experts of a mixture that are one tensor."""
    prefix, blocks = decoder_blocks(model)
    tracked = tracked_parameters(model)
    others = {key: p for key, p in blocks.named_parameters(prefix) if key not in tracked}
    total = sum(parameter.numel() for parameter in blocks.parameters())
    share = sum(parameter.numel() for parameter in tracked.values()) / total
    return share, None if share >= MOST else max(others, key=lambda key: others[key].numel())


def linear_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Deep copy in which each tracked layer is an equal `nn.Linear`, for libraries that only know that class."""
    clone = copy.deepcopy(model)
    for name, module in tracked_layers(clone).items():
        if type(module) is nn.Linear:
            continue
        weight, bias = module.get_parameter("weight").detach(), getattr(module, "bias", None)
        weight = weight.T if isinstance(module, Conv1D) else weight
        outputs, inputs = weight.shape
        linear = nn.Linear(inputs, outputs, bias is not None, dtype=weight.dtype, device=weight.device)
        linear.weight.data.copy_(weight)
        if bias is not None:
            linear.bias.data.copy_(bias.detach())
        parent, _, child = name.rpartition(".")
        setattr(clone.get_submodule(parent), child, linear)
    return clone


def layer_matrix(module: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Join tensors shaped like a layer's weight and bias into one [outputs, inputs (+ 1)] matrix."""
    matrix = weight.T if isinstance(module, Conv1D) else weight
    return matrix if bias is None else torch.cat([matrix, bias[:, None]], dim=1)


def split_layer_matrix(module: nn.Module, matrix: torch.Tensor) -> dict[str, torch.Tensor]:
    """Inverse of `layer_matrix`: parameter name → tensor in the parameter's own shape."""
    parts: dict[str, torch.Tensor] = {}
    if getattr(module, "bias", None) is not None:
        matrix, parts["bias"] = matrix[:, :-1], matrix[:, -1].contiguous()
    parts["weight"] = (matrix.T if isinstance(module, Conv1D) else matrix).contiguous()
    return parts
