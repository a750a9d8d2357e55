"""Nucleus sampling (Holtzman et al., 2020), the decoder of the paper's evaluation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ifguide.checks import check_number
from ifguide.decoding.base import Stateless

# R rows, L tokens so far, V vocabulary

CACHED = 1 << 20  # numbers
DIGITS = (12, 10, 9)  # of the 31 bits of a float32 that is not negative, from the highest


@dataclass(frozen=True)
class Nucleus(Stateless):
    """Sample from the smallest set of tokens whose probability reaches `top_p`.

    Args:
        top_p: probability of the nucleus; 1 is all tokens.
        temperature: the logits are divided by it first.

    Raises:
        ValueError: an argument out of range.
    """

    top_p: float = 0.9
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_top_p(self.top_p)
        check_number("temperature", self.temperature, above=0)

    def __call__(self, ids_RL: Tensor, logits_RV: Tensor) -> Tensor:
        """See `DecodingState`."""
        if self.temperature != 1:
            logits_RV = logits_RV / self.temperature
        return nucleus_logits(logits_RV, self.top_p)


@dataclass(frozen=True, kw_only=True)
class OverNucleus:
    """Settings of a decoder that samples from a nucleus in the end.

    Args:
        top_p, temperature: as in `Nucleus`.

    Raises:
        ValueError: an argument out of range.
    """

    top_p: float = 0.9
    temperature: float = 1.0

    def __post_init__(self) -> None:
        self.nucleus  # noqa: B018 (checks both)

    @property
    def nucleus(self) -> Nucleus:
        return Nucleus(top_p=self.top_p, temperature=self.temperature)


def check_top_p(top_p: float) -> None:
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: a probability in (0, 1]")


def finite_softmax(logits_RV: Tensor) -> Tensor:
    """Probabilities of tokens.

    Raises:
        ValueError: a row has none.
    """
    probabilities_RV = logits_RV.softmax(-1)
    if probabilities_RV[:, 0].isnan().any():  # one that is not a number makes all of its row so
        raise ValueError(
            "the next token's logits are not finite: the model's weights are not, or what its decoder adds is too large"
        )
    return probabilities_RV


def nucleus_logits(logits_RV: Tensor, top_p: float) -> Tensor:
    """Logits outside of the nucleus become −∞; tokens as probable as its last one are all inside.

    What `transformers` does by sorting the vocabulary of every row at every step. At 1 no token is left out, which
    rounded sums would not keep to.
    """
    if top_p == 1:
        return logits_RV.clone()

    def filtered(logits: Tensor) -> Tensor:
        probabilities = finite_softmax(logits.float())
        return logits.masked_fill(probabilities < nucleus_floor(probabilities, top_p), -torch.inf)

    return torch.cat([filtered(piece) for piece in cached_pieces(logits_RV)])


def shifted_nucleus(logits_RV: Tensor, shift_RV: Tensor, top_p: float) -> Tensor:
    """Logits of the nucleus (`nucleus_logits`) + a shift, of as many tokens as both know: vocabularies may be padded
    differently."""
    shifted = nucleus_logits(logits_RV, top_p)
    width = min(shifted.shape[1], shift_RV.shape[1])
    shifted[:, :width] += shift_RV[:, :width]
    return shifted


def cached_pieces(values_RV: Tensor) -> tuple[Tensor, ...]:
    """Rows of a matrix, on CPUs as many at a time as a core's cache holds."""
    rows = CACHED // values_RV.shape[1] if values_RV.device.type == "cpu" else len(values_RV)
    pieces: tuple[Tensor, ...] = values_RV.split(max(1, rows))
    return pieces


def nucleus_floor(probabilities_RV: Tensor, top_p: float) -> Tensor:
    """The largest probability such that all tokens at least as probable reach `top_p` together, [R, 1] float32.

    The bits of floats that are not negative are ordered as the floats are, so the floor is found digit by digit, as a
    radix sort would: the mass of every first digit, then that of every second one among the tokens whose first digit
    is the floor's, and so on. Exact up to the rounding of float32 sums.
    """
    count = len(probabilities_RV)
    bits_RV = probabilities_RV.contiguous().view(torch.int32)
    left = sum(DIGITS) - DIGITS[0]
    digit_RV = (bits_RV >> left).long()
    mass = probabilities_RV.new_zeros(count, 1 << DIGITS[0]).scatter_add_(1, digit_RV, probabilities_RV)
    best, above = _floor_digit(mass, probabilities_RV.new_zeros(count), top_p)
    floor = best.int() << left
    row, column = (digit_RV == best[:, None]).nonzero(as_tuple=True)  # few: those with the floor's digits so far
    values, bits = probabilities_RV[row, column], bits_RV[row, column]
    for width in DIGITS[1:]:
        left -= width
        digit = (bits >> left) & ((1 << width) - 1)
        mass = values.new_zeros(count << width).index_add_(0, (row << width) + digit, values).view(count, -1)
        best, above = _floor_digit(mass, above, top_p)
        floor += best.int() << left
        kept = digit == best[row]
        values, bits, row = values[kept], bits[kept], row[kept]
    return floor.view(torch.float32)[:, None]


def _floor_digit(mass_RD: Tensor, above_R: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The highest digit from which on the mass, with what is above all, reaches `top_p`; and the mass above it."""
    digits = mass_RD.shape[1]
    places = torch.arange(digits, device=mass_RD.device)
    reached = mass_RD.flip(1).cumsum(1).flip(1) + above_R[:, None]
    best = torch.where(reached >= top_p, places, -1).amax(1)
    lowest = torch.where(mass_RD > 0, places, digits).amin(1)
    best = torch.where(best < 0, lowest, best)  # where rounding keeps the sum of all below
    return best, torch.cat([reached, above_R[:, None]], 1).gather(1, best[:, None] + 1)[:, 0]
