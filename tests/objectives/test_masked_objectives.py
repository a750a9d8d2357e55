"""Objectives on the selected tokens other than Eq. 9, against slow references in float64."""

import math

import pytest
import torch

from ifguide.objectives import FadedAscent, NegativePreference, SuppressedLanguageModeling, Unlikelihood
from ifguide.objectives.faded_ascent import faded_cross_entropy
from ifguide.objectives.language_modeling import cross_entropy
from ifguide.objectives.negative_preference import negative_preference_cross_entropy, run_means
from ifguide.objectives.removal import Removal
from ifguide.objectives.suppressed_language_modeling import suppressed_cross_entropy
from ifguide.objectives.unlikelihood import log_complement, unlikelihood_cross_entropy
from ifguide.workspace import describe

B, T, V = 2, 6, 11
OBJECTIVES = [
    Unlikelihood(weight=0.7),
    NegativePreference(beta=0.4),
    FadedAscent(beta=1.5),
    NegativePreference(),
    NegativePreference(unit="run", reference=0.0),
]


@pytest.fixture
def logits():
    return torch.randn(B, T, V, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)


@pytest.fixture
def ids():
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mask():
    return torch.rand(B, T, generator=torch.Generator().manual_seed(2)) < 0.4


def gradient(loss, logits):
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


def slow_mean(logits, ids, mask, of_probability):
    """Mean over tokens, one softmax at a time; `of_probability` is the masked token's loss as a function of p."""
    parts = []
    for n in range(B):
        for t in range(1, T):
            exponentials = torch.exp(logits[n, t - 1])
            p = exponentials[ids[n, t]] / exponentials.sum()
            parts.append(of_probability(p) if mask[n, t] else -torch.log(p))
    return sum(parts) / len(parts)


def agree(fast, slow, logits):
    assert torch.allclose(fast, slow, rtol=0, atol=1e-12)
    assert torch.allclose(gradient(fast, logits), gradient(slow, logits), rtol=0, atol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_unlikelihood_against_a_slow_reference(logits, ids, mask, weight):
    slow = slow_mean(logits, ids, mask, lambda p: -weight * torch.log(1 - p))
    agree(unlikelihood_cross_entropy(logits, ids, mask, weight=weight), slow, logits)


@pytest.mark.parametrize("beta, reference, weight", [(0.1, -2.0, 1.0), (1.0, -0.5, 0.3), (4.0, -6.0, 2.0)])
def test_negative_preference_against_a_slow_reference(logits, ids, mask, beta, reference, weight):
    def part(p):
        ratio = p / math.exp(reference)
        return -weight * 2 / beta * torch.log(torch.sigmoid(-beta * torch.log(ratio)))

    for marked in (mask, torch.ones_like(mask)):  # also side by side: each is compared alone
        fast = negative_preference_cross_entropy(logits, ids, marked, beta=beta, reference=reference, weight=weight)
        agree(fast, slow_mean(logits, ids, marked, part), logits)


@pytest.mark.parametrize("beta, margin, weight", [(0.1, 0.0, 1.0), (2.5, 0.0, 0.3), (1.0, 1.6, 2.0)])
def test_simnpo_against_a_slow_reference(logits, ids, beta, margin, weight):
    """−(2/β) log σ(−(β/|y|) log π(y) − γ) for every run y of masked tokens, as often as it has tokens."""
    mask = torch.tensor([[1, 1, 0, 1, 1, 1], [1, 0, 1, 0, 0, 1]], dtype=torch.bool)  # columns 0 have no loss
    runs, total = [(0, [1]), (0, [3, 4, 5]), (1, [2]), (1, [5])], 0.0
    for n, places in runs:
        log_pi = sum(logits[n, t - 1].log_softmax(-1)[ids[n, t]] for t in places)
        part = -2 / beta * torch.log(torch.sigmoid(-beta / len(places) * log_pi - margin))
        total = total + weight * len(places) * part
    total = total + slow_mean(logits, ids, mask, lambda p: 0 * p) * B * (T - 1)
    options = dict(beta=beta, reference=-margin / beta, weight=weight, unit="run")
    agree(negative_preference_cross_entropy(logits, ids, mask, **options), total / (B * (T - 1)), logits)


def test_the_reference_is_a_token_as_likely_as_any_other_unless_it_is_given(logits, ids, mask):
    given = negative_preference_cross_entropy(logits, ids, mask, beta=0.5, reference=-math.log(V))
    assert torch.equal(NegativePreference(beta=0.5)(logits, ids, mask), given)
    weighted = negative_preference_cross_entropy(logits, ids, mask, beta=0.5, reference=-math.log(V), weight=1.0)
    assert torch.equal(given, weighted)


def test_runs_of_one_token_are_tokens(logits, ids):
    mask = torch.tensor([[0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 1, 0]], dtype=torch.bool)
    ours, theirs = (NegativePreference(reference=-1.0, unit=unit)(logits, ids, mask) for unit in ("run", "token"))
    assert torch.equal(ours, theirs) and torch.equal(gradient(ours, logits), gradient(theirs, logits))
    whole = torch.ones(B, T, dtype=torch.bool)
    values = torch.arange(12.0, dtype=torch.float64).view(B, T)
    assert torch.equal(run_means(values, whole), values.mean(1, keepdim=True).expand(B, T)), "blocks are apart"


@pytest.mark.parametrize(
    "objective", [SuppressedLanguageModeling(), Unlikelihood(), NegativePreference(), FadedAscent()]
)
def test_a_mask_is_needed(logits, ids, objective):
    with pytest.raises(ValueError, match=f"^{type(objective).__name__} needs the mask"):
        objective(logits, ids, None)


def test_the_unit_is_in_no_older_fingerprint():
    assert "unit" not in describe(NegativePreference()) and describe(NegativePreference(unit="run"))["unit"] == "run"


@pytest.mark.parametrize("beta, penalty", [(0.5, 1.0), (1.0, 0.3), (3.0, 2.0)])
def test_faded_ascent_against_a_slow_reference(logits, ids, mask, beta, penalty):
    slow = slow_mean(logits, ids, mask, lambda p: penalty * p.detach() ** beta * torch.log(p))
    agree(faded_cross_entropy(logits, ids, mask, penalty=penalty, beta=beta), slow, logits)


@pytest.mark.parametrize(
    "objective", [*OBJECTIVES, SuppressedLanguageModeling(), Removal()], ids=lambda o: type(o).__name__
)
def test_a_mask_of_nothing_is_exactly_cross_entropy_whatever_the_numbers(objective):
    """To the last bit, which sums in another order would change in a third of these."""
    ids, nothing = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.bool)
    for seed in range(30):
        logits = torch.randn(3, 9, 60, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(objective(logits, ids, nothing), cross_entropy(logits, ids))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_a_mask_of_nothing_is_exactly_cross_entropy(logits, ids, objective):
    nothing = torch.zeros(B, T, dtype=torch.bool)
    nothing[:, 0] = True  # has no loss
    plain, ours = cross_entropy(logits, ids), objective(logits, ids, nothing)
    assert torch.equal(plain, ours) and torch.equal(gradient(plain, logits), gradient(ours, logits))
    half = logits.detach().bfloat16()
    assert objective(half, ids, nothing).dtype == torch.float32
    with pytest.raises(ValueError, match="mask"):
        objective(logits, ids)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_descending_makes_masked_tokens_unlikelier_and_others_likelier(logits, ids, mask, objective):
    mask[:, 0] = False
    before = torch.log_softmax(logits[:, :-1], -1).gather(-1, ids[:, 1:, None])[..., 0]
    moved = logits - 0.1 * gradient(objective(logits, ids, mask), logits)
    after = torch.log_softmax(moved[:, :-1], -1).gather(-1, ids[:, 1:, None])[..., 0]
    assert ((after < before) == mask[:, 1:]).all()


def test_limits_are_gradient_ascent(logits, ids, mask):
    """β → 0: both objectives become Eq. 9; a weight of 0 drops the masked tokens."""
    ascent = suppressed_cross_entropy(logits, ids, mask, penalty=0.8)
    exact = faded_cross_entropy(logits, ids, mask, penalty=0.8, beta=0.0)
    assert torch.equal(exact, ascent) and torch.equal(gradient(exact, logits), gradient(ascent, logits))
    beta, reference = 1e-7, -2.0
    near = negative_preference_cross_entropy(logits, ids, mask, beta=beta, reference=reference, weight=0.8)
    assert torch.allclose(gradient(near, logits), gradient(ascent, logits), rtol=0, atol=1e-6)
    runs = negative_preference_cross_entropy(logits, ids, mask, beta=beta, reference=reference, weight=0.8, unit="run")
    assert torch.allclose(gradient(runs, logits), gradient(ascent, logits), rtol=0, atol=1e-6)
    constant = 0.8 * (2 / beta * math.log(2) - reference) * mask[:, 1:].double().mean()
    assert torch.allclose(near - constant, ascent, rtol=0, atol=1e-5)
    dropped = SuppressedLanguageModeling(penalty=0.0)(logits, ids, mask)
    for objective in (Unlikelihood(weight=0.0), NegativePreference(weight=0.0), FadedAscent(penalty=0.0)):
        assert torch.equal(gradient(objective(logits, ids, mask), logits), gradient(dropped, logits))


def one_token(log_probability, dtype=torch.float64):
    """Logits of one prediction in which token 0 has about this log-probability."""
    others = torch.full((V - 1,), math.log(-math.expm1(log_probability) / (V - 1)) if log_probability else -800.0)
    logits = torch.zeros(1, 2, V, dtype=dtype)
    logits[0, 0, 0], logits[0, 0, 1:] = log_probability, others.to(dtype)
    return logits.requires_grad_(), torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool)


@pytest.mark.parametrize("log_probability", [0.0, -1e-9, -0.5, -30.0, -700.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_gradients_stay_in_their_bounds(log_probability, dtype):
    """From certain to all but impossible tokens nothing is infinite, and the bounds that are promised hold."""
    logits, ids, mask = one_token(log_probability, dtype)
    beta, reference = 0.7, -3.0
    losses = {
        "unlikelihood": Unlikelihood()(logits, ids, mask),
        "preference": NegativePreference(beta=beta, reference=reference)(logits, ids, mask),
        "faded": FadedAscent(beta=beta)(logits, ids, mask),
    }
    for loss in losses.values():
        assert torch.isfinite(loss) and torch.isfinite(gradient(loss, logits)).all()
    assert 0 <= losses["preference"] <= 2 / beta * math.log1p(math.exp(-beta * reference)) + 1e-5
    assert -1 / (math.e * beta) - 1e-6 <= losses["faded"] <= 0
    assert losses["unlikelihood"] >= 0 and gradient(losses["unlikelihood"], logits).abs().max() <= 1 + 1e-6
    if log_probability < -20:
        assert all(gradient(loss, logits).abs().max() < 1e-6 for loss in losses.values()), "they fade"


def test_the_complement_keeps_its_digits_near_certainty():
    logits, ids, _ = one_token(-1e-9)
    assert log_complement(logits[0, :1], ids[0, :1]).item() == pytest.approx(math.log(1e-9), abs=1e-6)
    single = logits.detach().float()[0, :1].requires_grad_()
    value = log_complement(single, ids[0, :1])
    assert value.item() == pytest.approx(math.log(1e-9), abs=1e-4), "log1p(−exp(log p)) is −inf in float32"
    assert gradient(-value.sum(), single)[0, 0].item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Unlikelihood(weight=-1), r"^weight=-1"),
        (lambda: NegativePreference(beta=0), r"^beta=0"),
        (lambda: NegativePreference(reference=0.5), r"^reference=0\.5"),
        (lambda: NegativePreference(weight=-1), r"^weight=-1"),
        (lambda: NegativePreference(unit="word"), r"^unit=word; known: token, run"),
        (lambda: FadedAscent(penalty=-1), r"^penalty=-1"),
        (lambda: SuppressedLanguageModeling(penalty=-1), r"^penalty=-1: .* would be taught"),
        (lambda: SuppressedLanguageModeling(penalty="lots"), r"^penalty=lots: must be a number"),
        (lambda: SuppressedLanguageModeling(penalty=None), r"^penalty=None: must be a number"),
        (lambda: FadedAscent(beta=-1), r"^beta=-1"),
    ],
)
def test_arguments_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
