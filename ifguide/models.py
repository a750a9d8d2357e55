"""Build or load a causal language model; find the linear layers that influence tracks."""

import copy
import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ifguide.checks import check_seed

DECIDED = ("bos_token_id", "eos_token_id", "pad_token_id")  # by the tokenizer
READ_ANYWAY = ("head_dim", "max_position_embeddings")  # by models, or by us, where a configuration does not name them


@dataclass(frozen=True)
class ModelSettings:
    """A causal language model: built from an architecture, or loaded; and how models of its kind are loaded again.

    Args:
        architecture: model type of transformers, as in `gpt_neox`, `gpt2`, `llama`; not needed with `pretrained`.
        settings: configuration of a new model. A `vocab_size` of None or absent becomes the tokenizer's size,
            rounded up to a multiple of 64.
        pretrained: a hub name or a local folder; its weights are loaded in float32.
        attention: attention implementation of transformers.
        trust_remote_code: run model code from the hub; only ever when asked for.
        seed: of a new model's initial weights, of the order of the blocks and of dropout.

    Raises:
        ValueError: neither architecture nor pretrained, or a seed that is none.
    """

    NOT_SETTINGS: ClassVar[tuple[str, ...]] = ("attention", "trust_remote_code")

    architecture: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
    attention: str = "sdpa"
    trust_remote_code: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.architecture is None and self.pretrained is None:
            raise ValueError("architecture=None: a model needs one, or a folder or hub name in `pretrained`")

    @property
    def load_options(self) -> "LoadOptions":
        return LoadOptions(self.attention, self.trust_remote_code)

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
                model = AutoModelForCausalLM.from_config(
                    config, attn_implementation=self.attention, dtype=torch.float32
                )
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
        model = load_model(path, attention=self.attention, trust_remote_code=self.trust_remote_code)
        return model if device is None else model.to(device).eval()  # type: ignore[arg-type]


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded; a model's folder does not say, and none of it decides a weight.

    Args:
        attention: attention implementation of transformers.
        trust_remote_code: run model code from the hub; only ever when asked for.
    """

    attention: str = "sdpa"
    trust_remote_code: bool = False


def load_model(path: str | Path, *, attention: str = "sdpa", trust_remote_code: bool = False) -> PreTrainedModel:
    """Load a causal language model from a folder or the hub, in float32."""
    return AutoModelForCausalLM.from_pretrained(
        path, attn_implementation=attention, dtype=torch.float32, trust_remote_code=trust_remote_code
    )


def check_vocabulary(model: PreTrainedModel, vocabulary: int) -> None:
    """Raise ValueError where the tokenizer makes ids that the model has no embedding for."""
    rows = model.get_input_embeddings().weight.size(0)  # type: ignore[operator]
    if vocabulary > rows:
        raise ValueError(
            f"the tokenizer has {vocabulary} tokens but the model's vocabulary is {rows}; choose the model's own "
            "tokenizer (data.tokenizer.path) or a model with `settings.vocab_size` of at least that"
        )


def check_configuration(architecture: str, settings: Mapping[str, Any], name: str = "model") -> None:
    """Raise ValueError where transformers has no such model type, or makes no configuration of the settings, or would
    keep one of them without looking at it, as it does with `hiddn_act=relu`."""
    if architecture not in CONFIG_MAPPING:
        close = ", ".join(get_close_matches(architecture, CONFIG_MAPPING)) or "gpt2, llama, …"
        raise ValueError(f"{name}.architecture={architecture}: no model type of transformers, as {close} are")
    given, usual = {key: value for key, value in settings.items() if value is not None}, CONFIG_MAPPING[architecture]()
    try:
        made = AutoConfig.for_model(architecture, **given)
    except Exception as error:  # of several libraries
        raise ValueError(f"{name}.settings: no {architecture} has them: {' '.join(str(error).split())}") from error
    without = {*inspect.signature(PreTrainedConfig).parameters, *DECIDED}
    known = {*inspect.signature(type(usual)).parameters, *usual.attribute_map, *READ_ANYWAY} - without
    for key in given:
        if key in without or (key not in known and hasattr(made, key) and not hasattr(usual, key)):
            raise ValueError(
                f"{name}.settings.{key}={given[key]}: it would not act; {architecture} has {', '.join(sorted(known))}"
            )


def check_context(
    config: PreTrainedConfig, length: int, name: str = "data.block_length", owner: str = "the model"
) -> None:
    """Raise ValueError where what a model is given is longer than its context."""
    longest = getattr(config, "max_position_embeddings", length)
    if length > longest:
        raise ValueError(f"{name}={length} is longer than {owner}'s context of {longest} tokens")


def context_length(config: PreTrainedConfig) -> int:
    """Longest text that a model reads, in tokens; what knows no end has a very large one."""
    return int(getattr(config, "max_position_embeddings", 1 << 30))


def check_new_tokens(config: PreTrainedConfig, new_tokens: int) -> None:
    """Raise ValueError where continuations leave no room for a prompt in the model's context."""
    longest = context_length(config)
    if new_tokens >= longest:
        raise ValueError(
            f"max_new_tokens={new_tokens}: it is below the model's context of {longest} tokens, which holds "
            "the prompt too"
        )


def check_pretrained(name: str | None, setting: str = "model.pretrained") -> None:
    """Raise ValueError where a name is neither a model folder nor on the hub or in its cache."""
    looks_like_path = name is not None and (name.startswith((".", "/", "~")) or name.count("/") != 1)
    if name is not None and (looks_like_path or Path(name).exists()) and not (Path(name) / "config.json").is_file():
        raise ValueError(f"{setting}={name}: not a Hugging Face model folder (no config.json in it)")
    if name is not None:
        with loading(f"{setting}={name}"):
            PreTrainedConfig.get_config_dict(name)  # runs no code of the hub's


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Turn what transformers raises where it cannot load something into a ValueError that names the setting."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(f"{what} cannot be loaded: {error}") from error


def decoder_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the repeated decoder blocks: the outermost ModuleList of `num_hidden_layers` equal modules.

    Raises:
        ValueError: the model has none, so influence would not know what to track.
    """
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and len({type(block) for block in module}) == 1:
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
    linear = {name: module for name, module in blocks.named_modules() if isinstance(module, nn.Linear | Conv1D)}
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


def tracked_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name → parameter (weights and biases) of the tracked layers."""
    return {
        f"{layer}.{name}": parameter
        for layer, module in tracked_layers(model).items()
        for name, parameter in module.named_parameters(recurse=False)
    }


def linear_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Deep copy in which each tracked Conv1D is an equal `nn.Linear`, for libraries that only know the latter."""
    clone = copy.deepcopy(model)
    for name, module in tracked_layers(clone).items():
        if isinstance(module, Conv1D):
            inputs, outputs = module.weight.shape
            linear = nn.Linear(inputs, outputs, dtype=module.weight.dtype, device=module.weight.device)
            linear.weight.data.copy_(module.weight.data.T)
            linear.bias.data.copy_(module.bias.data)
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
