"""What is checked when a causal language model is opened: configuration, folder, weights, and that it is causal."""

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from ifguide.checks import listed
from ifguide.hub import check_hub, is_silent
from ifguide.workspace import read_json

DECIDED = ("bos_token_id", "eos_token_id", "pad_token_id")  # by the tokenizer
READ_ANYWAY = ("head_dim", "max_position_embeddings")  # by models, or by us, where a configuration does not name them
OTHER_HEADS = ("classifier", "summary")  # whose dropout no causal language model has
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
INDEX = "*.safetensors.index.json"
RUST = "PanicException"  # what the library of tokenizers may end with, no Exception; it cannot be imported
TOKENS = 8  # of the text that causality is tried on


def has_dropout(
    architecture: str | None, settings: Mapping[str, Any], pretrained: str | None, trust_remote_code: bool = False
) -> bool:
    """Whether a model's training draws random numbers, as far as its configuration tells; False where that cannot be
    read, which is refused elsewhere."""
    given = {key: value for key, value in settings.items() if value is not None}
    if pretrained is not None and is_silent(pretrained):
        return False
    try:
        if pretrained is None:
            config = AutoConfig.for_model(str(architecture), **given)
        else:
            config = AutoConfig.from_pretrained(pretrained, trust_remote_code=trust_remote_code)
    except Exception:  # of several libraries
        return False
    found = {key: value for key, value in config.to_dict().items() if "drop" in key and not key.startswith(OTHER_HEADS)}
    return any(isinstance(value, int | float) and value > 0 for value in found.values())


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


def check_pretrained(name: str | None, setting: str = "model.pretrained", *, weights: bool = True) -> None:
    """Raise ValueError where a name is neither a model folder nor on the hub or in its cache, or a folder's weights are
    missing, empty or cut off, or quantized; `weights`: whether it has some."""
    looks_like_path = name is not None and (name.startswith((".", "/", "~")) or name.count("/") > 1)
    if name is not None and (looks_like_path or Path(name).exists()) and not (Path(name) / "config.json").is_file():
        if (Path(name) / "adapter_config.json").is_file():
            raise ValueError(f"{setting}={name}: an adapter of PEFT; save the model that it is merged into")
        raise ValueError(f"{setting}={name}: not a Hugging Face model folder (no config.json in it)")
    if name is not None:
        check_hub(name, setting)
        with loading(f"{setting}={name}"):
            config, _ = PreTrainedConfig.get_config_dict(name)  # runs no code of the hub's
            quantized = dict(dict(config).get("quantization_config") or {})
        if quantized:
            kind = listed([quantized.get("quant_method", "it is not said how")])
            raise ValueError(
                f"{setting}={name}: its weights are quantized ({kind}), so that what is trained of it could not be "
                "saved; take the folder of the model that it was made from, or save it without `quantization_config`"
            )
        if weights:
            check_folder(name, setting)


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Turn what transformers raises where it cannot load something into a ValueError that names the setting."""
    try:
        yield
    except BaseException as error:  # of several libraries, which believe what the files of a folder hold
        caught = isinstance(error, Exception) or type(error).__name__ == RUST
        if isinstance(error, torch.OutOfMemoryError) or not caught:
            raise
        text = " ".join(str(error).split())
        if re.search(r"attn_implementation|Flash ?Attention|Flex ?Attention", text):
            text = f"{text.partition('. ')[0].rstrip('.')}; use attention=eager"
        raise ValueError(f"{what} cannot be loaded: {text}") from error


def check_folder(name: str, setting: str) -> None:
    """Raise ValueError where a local folder has no weights, or files of them that are missing, empty or cut off."""
    folder = Path(name)
    if not folder.is_dir():
        return  # a name on the hub
    files = [path for pattern in WEIGHTS for path in sorted(folder.glob(pattern))]
    if not files:
        raise ValueError(f"{setting}={name}: there are no weights in it ({' or '.join(WEIGHTS)})")
    for index in folder.glob(INDEX):
        try:
            parts = set(read_json(index)["weight_map"].values())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{setting}={name}: {index.name} is no index of weights") from error
        if missing := sorted(parts - {path.name for path in files}):
            raise ValueError(f"{setting}={name}: {listed(missing[:1])} is not there, which {index.name} names")
    for path in files:
        if path.stat().st_size == 0:
            raise ValueError(f"{setting}={name}: {path.name} is empty")
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="pt"):
                    pass
            except SafetensorError as error:
                raise ValueError(f"{setting}={name}: {path.name} is cut off or damaged ({error})") from error


def check_loaded(model: PreTrainedModel, report: Mapping[str, Any], name: str) -> None:
    """Raise ValueError where weights were newly made, left aside, or are not finite.

    Args:
        model: as it was loaded.
        report: `output_loading_info` of transformers.
        name: what it was loaded from, for the message.
    """
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{name}: it has no weights of {missing[0]} and {len(missing) - 1} others of {type(model).__name__}; it is "
            "another kind of model, or its configuration is another model's"
        )
    numbered = re.compile(r".*?\.\d+\.")  # a decoder block
    blocks = {found[0] for key in model.state_dict() if (found := numbered.match(key))}
    lists = {block.rstrip(".").rpartition(".")[0] for block in blocks}
    for key in sorted(report["unexpected_keys"]):
        found = numbered.match(key)
        if found and found[0] not in blocks and found[0].rstrip(".").rpartition(".")[0] in lists:
            raise ValueError(f"{name}: its configuration has no place for {listed([key])}: it is another model's")
    for key, value in model.named_parameters():
        if value.numel() and not all(torch.isfinite(end) for end in torch.aminmax(value.detach())):
            raise ValueError(f"{name}: it has weights that are not finite, the first are {key}")


@torch.no_grad()
def check_causal(model: PreTrainedModel, name: str) -> None:
    """Raise ValueError where a token's logits depend on later tokens, as an encoder's do: it would be asked to predict
    what it reads."""
    if model.device.type == "meta":
        return
    embeddings: Any = model.get_input_embeddings()
    vocabulary, training = len(embeddings.weight), model.training
    text = torch.arange(TOKENS, device=model.device)[None] % vocabulary
    other = text.clone()
    other[:, TOKENS // 2 :] = (text[:, TOKENS // 2 :] + 1) % vocabulary
    try:
        model.eval()
        first, second = (model(input_ids=ids, use_cache=False).logits[:, : TOKENS // 2] for ids in (text, other))
    finally:
        model.train(training)
    if float((first - second).norm()) > 3e-5 * float((first - first.mean(-1, keepdim=True)).norm()):
        raise ValueError(
            f"{name}: {type(model).__name__} is no causal language model: what it gives for a token depends on the "
            "tokens after it; use a decoder"
        )
