"""What is not a whole, finite, causal model of its configuration is refused when it is opened, in one line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

from ifguide.models import ModelSettings, decoder_blocks, load_model
from ifguide.opening import check_causal, check_folder, has_dropout

BERT = dict(vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path):
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path)
    return tmp_path


def cut_off(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def empty(folder):
    (folder / WEIGHTS).write_bytes(b"")


def gone(folder):
    (folder / WEIGHTS).unlink()


def part_gone(folder):
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    parts = {"gpt_neox.embed_in.weight": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))


def part_of_a_hostile_name(folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "\n\x1b[2J"}}))


def bad_index(folder):
    (folder / "model.safetensors.index.json").write_text("[]")


def nested_index(folder):
    (folder / "model.safetensors.index.json").write_text("[" * 100_000)


@pytest.mark.parametrize(
    "damage, message",
    [
        (nested_index, r"model\.safetensors\.index\.json is no index of weights"),
        (cut_off, r"model\.safetensors is cut off or damaged \("),
        (empty, r"model\.safetensors is empty$"),
        (gone, "there are no weights in it"),
        (part_gone, r"model-00002-of-00002\.safetensors is not there, which model\.safetensors\.index\.json names"),
        (part_of_a_hostile_name, r"'\\n\\x1b\[2J' is not there"),
        (bad_index, r"model\.safetensors\.index\.json is no index of weights"),
    ],
)
def test_damaged_weights_are_refused_before_anything_is_built(damage, message, folder):
    ModelSettings(pretrained=str(folder)).check("model")
    damage(folder)
    with pytest.raises(ValueError, match=rf"^proxy\.pretrained={folder}: {message}") as caught:
        ModelSettings(pretrained=str(folder)).check("proxy")
    assert "\n" not in str(caught.value)


def change_settings(folder, **values):
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))


def fewer_blocks(folder):
    change_settings(folder, num_hidden_layers=1)


def more_blocks(folder):
    change_settings(folder, num_hidden_layers=3)


def wider(folder):
    change_settings(folder, intermediate_size=64)


def not_a_number(folder):
    weights = load_file(folder / WEIGHTS)
    weights["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"][3, 4] = float("nan")
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def infinite(folder):
    weights = load_file(folder / WEIGHTS)
    weights["gpt_neox.layers.0.attention.dense.bias"][0] = float("-inf")
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def classifier(folder):
    config = AutoConfig.for_model("gpt_neox", **BERT)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)


def encoder(folder):
    AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", **BERT)).save_pretrained(folder)


@pytest.mark.parametrize(
    "damage, message",
    [
        (fewer_blocks, r"its configuration has no place for gpt_neox\.layers\.1\.\S+: it is another model's"),
        (more_blocks, r"it has no weights of gpt_neox\.layers\.2\.\S+ and \d+ others of GPTNeoXForCausalLM"),
        (wider, r"cannot be loaded: .*(size mismatch|ignore_mismatched_sizes)"),
        (not_a_number, r"weights that are not finite, the first are gpt_neox\.layers\.1\.mlp\.dense_4h_to_h\.weight"),
        (infinite, r"weights that are not finite, the first are gpt_neox\.layers\.0\.attention\.dense\.bias"),
        (classifier, r"it has no weights of \S*(embed_out|lm_head)\S* and 0 others"),
        (encoder, r"BertLMHeadModel is no causal language model|it has no weights of"),
    ],
)
def test_weights_of_something_else_are_refused_when_they_are_opened(damage, message, folder):
    assert ModelSettings(pretrained=str(folder)).build(60, None) is not None
    damage(folder)
    with pytest.raises(ValueError, match=message) as caught:
        ModelSettings(pretrained=str(folder)).build(60, None)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_a_whole_encoder_is_refused(tmp_path):
    AutoModelForCausalLM.from_config(AutoConfig.for_model("bert", **BERT)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"BertLMHeadModel is no causal language model: .* the tokens after it"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match=r"^architecture=bert: BertLMHeadModel is no causal"):
        ModelSettings(architecture="bert", settings=BERT).build(60, None)
    decoder = AutoModelForCausalLM.from_config(AutoConfig.for_model("bert", **BERT, is_decoder=True))
    decoder.train()
    before = torch.get_rng_state()
    check_causal(decoder, "decoder")
    assert decoder.training and torch.equal(before, torch.get_rng_state())


def test_a_quantized_model_is_refused_before_anything_is_built(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gguf"}}))
    with pytest.raises(ValueError, match=r"^model\.pretrained=.*: its weights are quantized \(gguf\), .* save it with"):
        ModelSettings(pretrained=str(folder)).check("model")


@pytest.mark.parametrize("config", [[{}], {"quantization_config": 8}])
def test_a_configuration_of_another_shape_is_one_line(config, folder):
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"^model\.pretrained=\S+ cannot be loaded: "):
        ModelSettings(pretrained=str(folder)).check("model")


def test_tied_weights_and_names_on_the_hub_are_left_alone(tmp_path):
    tiny_model("llama", dtype=torch.float32).save_pretrained(tmp_path)
    assert load_model(tmp_path).get_output_embeddings().weight.shape == (60, 16)
    check_folder("EleutherAI/pythia-14m", "model.pretrained")


def test_a_model_with_an_adapter_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^model\.pretrained=.*: an adapter of PEFT; save the model"):
        ModelSettings(pretrained=str(tmp_path)).check("model")
    model = tiny_model()
    model.peft_config = {}
    with pytest.raises(ValueError, match=r"adapter of PEFT.*merge_and_unload\(\)"):
        decoder_blocks(model)


def test_dropout_is_read_from_the_configuration(tmp_path):
    assert has_dropout("gpt2", {}, None) and not has_dropout("gpt2", dict.fromkeys(
        ("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0), None)  # fmt: skip
    assert not has_dropout("gpt_neox", {"vocab_size": None}, None), "a classifier's dropout is none of its own"
    assert has_dropout("gpt_neox", {"hidden_dropout": 0.1}, None)
    tiny_model("gpt2").save_pretrained(tmp_path)
    assert has_dropout(None, {}, str(tmp_path)) and not has_dropout(None, {}, str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "architecture, attention", [("bloom", "sdpa"), ("gpt_neox", "flash_attention_2"), ("gpt_neox", "nonsense")]
)
def test_an_attention_that_is_not_there_is_one_line_with_its_way_out(architecture, attention):
    settings = ModelSettings(architecture=architecture, attention=attention)
    with pytest.raises(ValueError, match=rf"^architecture={architecture} cannot be loaded: .*; use attention=eager$"):
        settings.config(60, None)


def test_the_implementation_of_experts_is_chosen():
    settings = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=16,
        num_local_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    for name in ("eager", "batched_mm"):
        model = ModelSettings(architecture="mixtral", settings=settings, experts_implementation=name).build(60, None)
        assert model.config._experts_implementation == name
    with pytest.raises(ValueError, match=r"^architecture=mixtral cannot be loaded: .*nonsense"):
        ModelSettings(architecture="mixtral", settings=settings, experts_implementation="nonsense").build(60, None)
    before = ModelSettings(architecture="gpt_neox").settings
    assert before == {}
