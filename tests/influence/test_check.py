"""What a form of the scorer leaves out is found, and said before anything is scored."""

import copy
from types import MethodType, SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_scorers import close, random_direction, score
from tiny import VOCABULARY, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from ifguide.influence.scorers import JVP, FiniteDifference, Positional
from ifguide.influence.scorers import check as check_module
from ifguide.influence.scorers import jvp as jvp_module
from ifguide.influence.scorers import tangents as tangents_module
from ifguide.influence.scorers.check import gradient_sizes, prepare_checked, relative_error
from ifguide.influence.scorers.check import random_direction as of_every_kind
from ifguide.influence.scorers.exact import reverse_scores
from ifguide.influence.scorers.jvp import reference_scores
from ifguide.influence.scoring import BlockSampler, prepare_scorer
from ifguide.models import tracked_parameters

FAST = {
    "jvp": JVP(),
    "low_rank": JVP(rank=2),
    "finite_difference": FiniteDifference(),
    "positional": Positional(),
    "as_published": Positional("as_published"),
}


@pytest.fixture(params=FAST)
def scorer(request):
    return FAST[request.param]


def reads_a_weight_itself():
    """A Llama whose gate is multiplied without being called, as some models do."""
    model = tiny_model("llama", dtype=torch.float32)
    for block in model.model.layers:
        block.mlp.forward = MethodType(
            lambda mlp, x: mlp.down_proj(F.silu(F.linear(x, mlp.gate_proj.weight)) * mlp.up_proj(x)), block.mlp
        )
    return model


def mamba():
    torch.manual_seed(0)
    config = AutoConfig.for_model("mamba", vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def test_scores_are_checked_along_their_direction_and_a_random_one(scorer, blocks):
    model = tiny_model(dtype=torch.float32)
    directions = [random_direction(model, seed) for seed in range(2)]
    facts = prepare_checked(scorer, model, directions, blocks).facts["self_check"]
    limit = 0.02 if isinstance(scorer, FiniteDifference) else 1e-4
    assert facts["blocks"] == 3 and 0 <= facts["relative_error_of_random_direction"] < limit
    assert len(facts["relative_error"]) == 2
    is_complete = scorer.complete() == scorer
    assert all(error < limit for error in facts["relative_error"]) == is_complete


def test_the_check_changes_no_score_and_draws_nothing(scorer, blocks):
    model = tiny_model(dtype=torch.float32)
    direction = random_direction(model)
    expected = score(scorer, model, [direction], blocks)
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    prepared = prepare_checked(scorer, copy.deepcopy(model), [direction], blocks)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(prepared(blocks), expected)


@pytest.mark.parametrize("make", [reads_a_weight_itself, mamba])
@pytest.mark.parametrize("name", ["jvp", "finite_difference", "positional"])
def test_a_weight_that_is_read_without_calling_its_layer_is_found(make, name, blocks):
    model = make()
    part = "gate_proj" if make is reads_a_weight_itself else "dt_proj"
    rest = {key: value for key, value in random_direction(model).items() if part not in key}
    small = {key: 1e-9 * value for key, value in random_direction(model).items() if part in key}
    message = rf"^\w+ reads \S+\.{part}\.\w+ without calling its layer; use scorer=jvp scorer\.form=reference"
    with pytest.raises(ValueError, match=message):  # though the direction itself hardly goes there
        prepare_checked(FAST[name], make(), [rest | small], blocks)
    prepare_checked(FAST[name], make(), [rest], blocks)
    reference = prepare_checked(JVP("reference"), model, [rest | small], blocks)
    assert close(reference(blocks)[0], reference_scores(model, rest | small, blocks), 1e-6)


def test_a_direction_of_biases_alone_has_scores(scorer, model, blocks):
    direction = {key: value for key, value in random_direction(model).items() if key.endswith("bias")}
    if not direction:
        assert model.config.model_type == "llama"
        return
    ours = score(scorer.complete(), model, [direction], blocks)[0].double()
    expected = reference_scores(model, direction, blocks)
    assert relative_error(ours, expected, each_token=scorer.OWN_LOSS) < 2e-2


def test_biases_and_weights_of_different_layers_go_together(blocks):
    model = tiny_model(dtype=torch.float64)
    whole = random_direction(model)
    parts = [{key: value for key, value in whole.items() if key.endswith(end)} for end in ("bias", "weight")]
    for ours, direction in zip(score(JVP(), model, parts, blocks), parts, strict=True):
        assert close(ours, reference_scores(model, direction, blocks), 1e-5)


def test_a_norm_in_a_direction_is_refused_by_all_but_the_reference(scorer, blocks):
    model = tiny_model(dtype=torch.float32)
    direction = {**random_direction(model), "gpt_neox.final_layer_norm.weight": torch.ones(16)}
    with pytest.raises(ValueError, match=r"^the direction moves gpt_neox\.final_layer_norm\.weight, .*form=reference"):
        prepare_checked(scorer, model, [direction], blocks)
    assert prepare_checked(JVP("reference"), model, [direction], blocks)(blocks).abs().sum() > 0


def test_bfloat16_passes(blocks):
    model = tiny_model(dtype=torch.float32)
    half = {name: value.bfloat16() for name, value in random_direction(model).items()}
    facts = prepare_checked(JVP(), model.bfloat16(), [half], blocks).facts["self_check"]
    assert 1e-4 < facts["relative_error_of_random_direction"] < 0.1


def test_each_kind_of_parameter_has_its_part_in_the_random_direction(blocks):
    model = tiny_model(dtype=torch.float64)
    names = list(tracked_parameters(model))
    sizes, uncalled = gradient_sizes(model, names, blocks)
    direction = of_every_kind(model, sizes)
    assert uncalled == []
    assert set(direction) == set(names)
    model.idle = torch.nn.Linear(2, 2, dtype=torch.float64)  # no loss depends on it, and it is never called
    assert gradient_sizes(model, [*names, "idle.weight"], blocks) == ({**sizes, "idle.weight": 0.0}, [])
    whole = reference_scores(model, direction, blocks)[:, 1:].norm()
    kinds = {check_module._kind(name) for name in names}
    assert len(kinds) == len(names) / 2
    for kind in kinds:
        part = {name: value for name, value in direction.items() if check_module._kind(name) == kind}
        assert reference_scores(model, part, blocks)[:, 1:].norm() > 0.1 * whole


def test_what_a_form_leaves_out_is_found(blocks, monkeypatch):
    """A fast form that forgets the tangent of one kind of layer, if only in every second block."""
    model = tiny_model(dtype=torch.float32)
    whole = tangents_module.layer_tangents

    def forgetful(*arguments):
        found, lost = whole(*arguments)
        return {name: value for name, value in found.items() if "layers.1.attention.dense" not in name}, lost

    monkeypatch.setattr(jvp_module, "layer_tangents", forgetful)
    with pytest.raises(ValueError, match=r"does not compute a part of the model; use scorer=jvp"):
        prepare_checked(JVP(), model, [random_direction(model)], blocks)


def test_what_a_form_fails_on_is_one_line(blocks, monkeypatch):
    model = tiny_model(dtype=torch.float32)

    def fail(*arguments, **options):
        raise NotImplementedError("no formula\nfor this")

    monkeypatch.setattr(jvp_module, "layer_tangents", fail)
    with pytest.raises(ValueError, match=r"how GPTNeoXForCausalLM computes \(no formula\); use scorer=jvp"):
        prepare_checked(JVP(), model, [random_direction(model)], blocks)


def test_what_cannot_be_checked_is_tried_and_gets_the_sample(blocks):
    given = []

    def fail(ids):
        raise RuntimeError("no kernel")

    def prepare(model, directions, sample):
        given.append(sample)
        return fail

    model, scorer = tiny_model(dtype=torch.float32), SimpleNamespace(complete=lambda: None, prepare=prepare)
    with pytest.raises(
        ValueError, match=r"how GPTNeoXForCausalLM computes \(no kernel\); use scorer=finite_difference"
    ):
        prepare_checked(scorer, model, [random_direction(model)], blocks)
    assert given[0] is blocks


def test_a_parameter_that_no_loss_depends_on_has_no_part_in_exact_scores(blocks):
    model = tiny_model()
    direction = random_direction(model)
    expected = reverse_scores(model, direction, blocks)
    assert expected.dtype == torch.float64
    model.register_parameter("idle", torch.nn.Parameter(torch.ones(3, dtype=torch.float64)))
    assert torch.equal(reverse_scores(model, {**direction, "idle": torch.ones(3)}, blocks), expected)


@pytest.mark.parametrize("form", [FiniteDifference(), JVP("reference"), JVP()])
def test_a_model_without_forward_formulas_is_checked_backward(form, blocks, monkeypatch):
    model = tiny_model(dtype=torch.float32)
    direction = random_direction(model)

    def fail(*arguments, **options):
        raise RuntimeError("no formula")

    monkeypatch.setattr(torch.func, "jvp", fail)
    monkeypatch.setattr(jvp_module, "dual_level", fail)
    if isinstance(form, JVP):
        with pytest.raises(ValueError, match=r"\(no formula\); use scorer=finite_difference$"):
            prepare_checked(form, model, [direction], blocks)
        return
    prepared = prepare_checked(form, copy.deepcopy(model), [direction], blocks)
    assert prepared.facts["self_check"]["blocks"] == 1
    assert relative_error(prepared(blocks)[0].double(), reverse_scores(model, direction, blocks)) < 2e-2


def test_scoring_checks_its_scorer(blocks):
    model = reads_a_weight_itself()
    tokens = blocks.numpy()
    with pytest.raises(ValueError, match="without calling its layer"):
        prepare_scorer(JVP(), model, [random_direction(model)], BlockSampler(tokens.__getitem__, tokens.shape))


def test_a_tolerance_that_was_lowered_is_kept_to():
    assert 0.0446 < FiniteDifference().allowed_error < 0.0448 < check_module.LIMIT
    assert FiniteDifference(tolerance=0.8).allowed_error == pytest.approx(0.75)
    assert FiniteDifference(tolerance=0).allowed_error == float("inf") and JVP().allowed_error == 0


@pytest.mark.parametrize("value, error", [((0.0, 0.0), 0.0), ((1.0, 0.0), float("inf")), ((0.9, 1.0), 0.1)])
def test_relative_errors(value, error):
    ours, expected = (torch.tensor([[0.0, one]]) for one in value)
    assert relative_error(ours, expected) == pytest.approx(error)
