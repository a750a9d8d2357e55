"""The curvature H of the proxy: Kronecker factors fitted by kronfluence, and (H + δI)⁻¹ applied to a gradient.

Gradients and factors of a layer are matrices [outputs, inputs (+ 1 where there is a bias)].
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from ifguide.checks import check_number, check_whole_number
from ifguide.influence.factors import EIGENVALUES, EIGENVECTORS, FACTORS, SIDES, CurvatureError, by_layer, check_counts
from ifguide.influence.kronfluence_factors import (
    LanguageModelingTask,
    draw_labels,
    kronfluence_factors,
    own_generator,
    vocabulary_of,
)
from ifguide.influence.per_block import flattened_layers
from ifguide.influence.sequence_kronecker import block_gradients, corrected_eigenvalues, sequence_factors
from ifguide.models import linear_copy, tracked_layers
from ifguide.processes import ALONE, Processes

WHOLE_SEQUENCES = ("sequence_kronecker", "eshampoo")
SCOPES = ("layer", "model")


@dataclass(frozen=True)
class Curvature:
    """Which approximation of the Gauss-Newton Hessian H, from how many blocks, and how it is damped.

    Args:
        strategy: `ekfac` (Grosse et al., 2023), `kfac`, `sequence_kronecker` (`ifguide.influence.sequence_kronecker`),
            `eshampoo` (the same eigenvectors with second moments of whole blocks as eigenvalues), `diagonal`, or
            `identity` (nothing is fitted, H + δI = I).
        blocks: training blocks to fit on, sampled at random.
        damping: δ, or with `relative` its ratio to the mean eigenvalue.
        relative: eigenvalues are second moments of whole-block gradients, but K-FAC's are per token, so that an
            absolute damping does not compare across them; the reference code ran the absolute 1e-8.
        empirical_fisher: fit on the true next tokens instead of sampled ones (the true Fisher).
        scope: of that mean: each `layer` for itself, or all of the `model`.

    Raises:
        ValueError: unknown strategy, or a number out of range.
    """

    LEFT_OUT_AT_DEFAULT: ClassVar = ("scope",)

    strategy: str = "ekfac"
    blocks: int = 512
    damping: float = 0.01
    relative: bool = True
    empirical_fisher: bool = False
    scope: str = "layer"

    def __post_init__(self) -> None:
        if self.strategy not in FACTORS:
            raise ValueError(f"strategy={self.strategy}; known: {', '.join(FACTORS)}")
        check_whole_number("blocks", self.blocks, least=1)
        if self.scope not in SCOPES:
            raise ValueError(f"scope={self.scope}; known: {', '.join(SCOPES)}")
        check_number("damping", self.damping, least=0)

    @property
    def fitting(self) -> dict[str, str | int | bool]:
        """The settings that decide the factors; damping acts when they are applied."""
        return {"strategy": self.strategy, "blocks": self.blocks, "empirical_fisher": self.empirical_fisher}

    def fit(
        self,
        model: PreTrainedModel,
        blocks: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        layers: Sequence[str] | None = None,
        progress: bool = True,
        processes: Processes = ALONE,
    ) -> dict[str, Tensor]:
        """Fit the factors of the tracked layers, in float32.

        Args:
            model: the proxy; it is copied, never changed. Its device decides where the factors are fitted.
            blocks: [blocks, T] token ids.
            batch_size: blocks at a time.
            seed: of the labels sampled from the model.
            layers: names of the layers to fit; None: all tracked layers.
            progress: show progress bars.
            processes: among which the blocks are shared; each gets all factors.

        Returns:
            `<layer>/<factor>` → tensor; empty for `identity`.

        Raises:
            CurvatureError: factors that are not finite, or covariances without an eigendecomposition.
        """
        if self.strategy == "identity":
            return {}
        clone = linear_copy(model).float().eval()
        names = list(tracked_layers(clone) if layers is None else layers)
        with _curvature_errors():
            flat, batch_size = flattened_layers(clone, names, blocks, batch_size)
        if self.strategy in WHOLE_SEQUENCES:
            return self._fit_whole_sequences(clone, names, blocks, seed=seed, progress=progress, processes=processes)
        kept = FACTORS[self.strategy]
        found = kronfluence_factors(
            clone, names, flat, blocks, strategy=self.strategy, kept=kept, empirical_fisher=self.empirical_fisher,
            batch_size=batch_size, seed=seed, progress=progress, processes=processes,
        )  # fmt: skip
        if "lambda_matrix" in kept:
            for name in flat:  # what no token of a block reaches has no gradient there
                found["num_lambda_processed"][name] = torch.full_like(found["num_lambda_processed"][name], len(blocks))
        factors = {f"{layer}/{name}": found[name][layer].clone() for layer in names for name in kept}
        for key, value in factors.items():
            if not torch.isfinite(value).all():
                raise CurvatureError(f"the fitted factor {key} is not finite; fit on more blocks or check the proxy")
        check_counts(by_layer(factors), len(blocks))
        return factors

    def _fit_whole_sequences(
        self,
        model: PreTrainedModel,
        layers: Sequence[str],
        blocks: NDArray[np.int64],
        *,
        seed: int,
        progress: bool,
        processes: Processes,
    ) -> dict[str, Tensor]:
        task, sample = LanguageModelingTask(layers), not self.empirical_fisher
        vocabulary = vocabulary_of(model)

        def loss(ids: Tensor) -> Tensor:
            return task.compute_train_loss(ids, model, sample=sample)

        def pass_over(ids: Tensor) -> None:
            if sample:
                draw_labels(ids[:, 1:].numel(), vocabulary, ids.device)

        def gradients() -> Iterator[dict[str, Tensor]]:
            return block_gradients(model, layers, blocks, loss, pass_over, progress=progress, processes=processes)

        with own_generator(model.device, seed), _curvature_errors():
            found = sequence_factors(gradients(), len(blocks), processes)
            if self.strategy == "eshampoo":
                found |= corrected_eigenvalues(gradients(), found, processes)
        return {key: found[key] for key in found if key.rpartition("/")[2] in FACTORS[self.strategy]}

    def resolved(self, factors: Mapping[str, Mapping[str, Tensor]]) -> "Curvature":
        """The same with one absolute δ, where that is relative to the mean eigenvalue of the whole model.

        Args:
            factors: layer → factors.
        """
        if self.strategy == "identity" or not self.relative or self.scope == "layer":
            return self
        eigenvalues = [self.eigenvalues(parts) for parts in factors.values()]
        mean = sum(float(one.sum()) for one in eigenvalues) / sum(one.numel() for one in eigenvalues)
        return replace(self, damping=self.damping * mean, relative=False)

    def eigenvalues(self, factors: Mapping[str, Tensor]) -> Tensor:
        """Of one layer, [outputs, inputs (+ 1)] in float64, in the basis of its eigenvectors where it has some."""
        if set(EIGENVALUES) <= set(FACTORS[self.strategy]):
            # eigh returns tiny negative values where the covariance has no rank
            outputs, inputs = (factors[f"{side}_eigenvalues"].double().clamp_min(0) for side in SIDES)
            return outputs[:, None] * inputs[None, :]
        return factors["lambda_matrix"].double() / factors["num_lambda_processed"].double()

    def delta(self, factors: Mapping[str, Tensor]) -> float:
        """δ of one layer."""
        return self.damping * float(self.eigenvalues(factors).mean()) if self.relative else self.damping

    def precondition(self, gradient: Tensor, factors: Mapping[str, Tensor]) -> Tensor:
        """(H + δI)⁻¹ g for one layer.

        Args:
            gradient: [outputs, inputs (+ 1)].
            factors: the layer's factors by name.

        Raises:
            CurvatureError: the damped eigenvalues hold a zero or a value that is not finite.
        """
        if self.strategy == "identity":
            return gradient
        work = gradient.double()
        rotates = set(EIGENVECTORS) <= set(FACTORS[self.strategy])
        if rotates:
            q_out, q_in = (factors[f"{side}_eigenvectors"].to(work) for side in SIDES)
            work = q_out.T @ work @ q_in
        eigenvalues = self.eigenvalues(factors).to(work.device).view_as(work)
        damped = eigenvalues + (self.damping * eigenvalues.mean() if self.relative else self.damping)
        if not torch.isfinite(damped).all() or (damped <= 0).any():
            raise CurvatureError(
                f"the damped eigenvalues range from {damped.min():.3g} to {damped.max():.3g}: "
                "use a larger damping, or fit on more blocks"
            )
        work = work / damped
        return (q_out @ work @ q_in.T if rotates else work).to(gradient.dtype)


@contextmanager
def _curvature_errors() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise CurvatureError(str(error)) from None
