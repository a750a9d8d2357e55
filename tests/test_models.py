import pytest
import torch
from tiny import ARCHITECTURES, tiny_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from ifguide.models import (
    ModelSettings,
    layer_matrix,
    linear_copy,
    load_model,
    split_layer_matrix,
    tracked_layers,
    tracked_parameters,
)
from ifguide.opening import check_context, check_new_tokens

TRACKED_PER_BLOCK = {"gpt_neox": 4, "gpt2": 4, "llama": 7, "qwen2": 7}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tracked_layers_are_the_linear_layers_of_the_decoder_blocks(architecture):
    model = tiny_model(architecture)
    layers = tracked_layers(model)
    assert len(layers) == 2 * TRACKED_PER_BLOCK[architecture]
    head = model.get_output_embeddings()
    assert all(module is not head and isinstance(module, nn.Linear | Conv1D) for module in layers.values())
    assert all(parameter.shape[0] != 60 for parameter in tracked_parameters(model).values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_linear_copy_computes_the_same(architecture):
    model = tiny_model(architecture)
    ids = torch.arange(8)[None]
    clone = linear_copy(model)
    assert torch.allclose(model(ids).logits, clone(ids).logits, atol=1e-9)
    assert not any(isinstance(module, Conv1D) for module in tracked_layers(clone).values())
    assert tracked_layers(clone).keys() == tracked_layers(model).keys()
    with torch.no_grad():
        next(iter(tracked_parameters(clone).values())).zero_()
    assert any(parameter.abs().sum() > 0 for parameter in list(tracked_parameters(model).values())[:1])


@pytest.mark.parametrize("module", [nn.Linear(3, 5), nn.Linear(3, 5, bias=False), Conv1D(5, 3)])
def test_layer_matrices_round_trip(module):
    matrix = layer_matrix(module, module.weight, module.bias)
    assert matrix.shape == (5, 3 + (module.bias is not None))
    for name, part in split_layer_matrix(module, matrix).items():
        assert torch.equal(part, getattr(module, name))


def test_a_new_model_fits_its_tokenizer_and_its_seed_decides_its_weights():
    settings = ARCHITECTURES["gpt_neox"]
    first, second, other = (
        ModelSettings(architecture="gpt_neox", settings=settings, seed=seed).build(100, None) for seed in (0, 0, 1)
    )
    assert first.get_input_embeddings().weight.shape[0] == 128
    weights = [model.get_input_embeddings().weight for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_model_continues_from_its_folder(tmp_path):
    model = tiny_model(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    loaded = ModelSettings(pretrained=str(tmp_path)).build(60, None)
    assert torch.equal(loaded(torch.arange(5)[None]).logits, load_model(tmp_path)(torch.arange(5)[None]).logits)
    assert torch.allclose(loaded(torch.arange(5)[None]).logits, model(torch.arange(5)[None]).logits, atol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(architecture="gpt_neox", settings={"vocab_size": 60}), "70 tokens"),
        (dict(), "^architecture=None"),
        (dict(architecture="no_such_model"), "no_such_model"),
        (dict(pretrained="./nowhere"), "^model.pretrained=./nowhere: not a Hugging Face model folder"),
    ],
)
def test_mistakes_are_refused(options, message):
    if "settings" in options:
        options["settings"] = {**ARCHITECTURES["gpt_neox"], **options["settings"]}
    with pytest.raises(ValueError, match=message):
        settings = ModelSettings(**options)
        settings.check("model")
        settings.build(70, None)


def test_blocks_longer_than_the_context_are_refused():
    config = tiny_model().config
    check_context(config, 64)
    with pytest.raises(ValueError, match="context of 64"):
        check_context(config, 65)


def test_continuations_leave_room_for_a_prompt():
    config = tiny_model().config
    check_new_tokens(config, 63)
    with pytest.raises(ValueError, match=r"^max_new_tokens=64: .* context of 64"):
        check_new_tokens(config, 64)


def test_more_last_blocks_than_there_are_are_refused():
    assert tracked_layers(tiny_model(), last_blocks=2).keys() == tracked_layers(tiny_model()).keys()
    with pytest.raises(ValueError, match=r"influence\.last_blocks=3: the model has 2"):
        tracked_layers(tiny_model(), last_blocks=3)


def test_a_model_without_decoder_blocks_is_refused():
    with pytest.raises(ValueError, match="decoder blocks"):
        tracked_layers(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    "architecture, settings, message",
    [
        (
            "gpt_neox",
            {"num_layers": 1},
            r"^proxy\.settings\.num_layers=1: it would not act; gpt_neox has .*num_hidden_lay",
        ),
        ("gpt_neox", {"hiddn_act": "relu"}, r"^proxy\.settings\.hiddn_act=relu: .*hidden_act"),
        ("gpt_neox", {"rope_theta": 5.0}, "would not act"),
        ("gpt_neox", {"bos_token_id": 5}, "would not act"),
        ("gpt_neox", {"dtype": "bfloat16"}, "would not act"),
        *((other, {"intermediate_size": 8}, "would not act") for other in ("gpt2", "opt", "bloom", "falcon")),
        ("gpt_neox", {"hidden_size": "x"}, r"^proxy\.settings: no gpt_neox has them: .*'hidden_size'"),
        ("gptneox", {}, r"^proxy\.architecture=gptneox: .*gpt_neox"),
    ],
)
def test_a_setting_that_would_act_nowhere_is_refused(architecture, settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ModelSettings(architecture=architecture, settings=settings).check("proxy")
    tiny_model().save_pretrained(tmp_path)
    ModelSettings(architecture=architecture, settings=settings, pretrained=str(tmp_path)).check("proxy")  # not read


@pytest.mark.parametrize(
    "architecture, settings",
    [
        *ARCHITECTURES.items(),
        ("gpt2", {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": None}),
        ("llama", {"rope_theta": 1e4}),
        ("gpt_neox", {"rotary_pct": 0.5, "tie_word_embeddings": True}),
        ("qwen2", {"head_dim": 8}),
        ("bloom", {"n_layer": 2, "max_position_embeddings": 64}),
    ],
)
def test_settings_that_act_are_taken(architecture, settings):
    ModelSettings(architecture=architecture, settings=settings).check("model")
