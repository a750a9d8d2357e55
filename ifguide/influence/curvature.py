"""The curvature H of the proxy: Kronecker factors fitted by kronfluence, and (H + δI)⁻¹ applied to a gradient.

Factors are kept in one safetensors file, `factors.safetensors`, with keys `<layer>/<factor>`. Gradients and factors of
a layer are matrices [outputs, inputs (+ 1 where there is a bias)].
"""

import logging
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from kronfluence import Analyzer, FactorArguments, Task, prepare_model
from kronfluence.utils.state import State
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from transformers import PreTrainedModel

from ifguide.checks import check_whole_number
from ifguide.influence.per_block import flattened_layers, give_by_block
from ifguide.influence.sequence_kronecker import sequence_factors
from ifguide.models import linear_copy, tracked_layers

FACTORS_FILE = "factors.safetensors"
EIGENVECTORS = ("activation_eigenvectors", "gradient_eigenvectors")
EIGENVALUES = ("activation_eigenvalues", "gradient_eigenvalues")
LAMBDA = ("lambda_matrix", "num_lambda_processed")
FACTORS: dict[str, tuple[str, ...]] = {  # what each strategy keeps of a layer, under kronfluence's names
    "ekfac": (*EIGENVECTORS, *LAMBDA),
    "kfac": (*EIGENVECTORS, *EIGENVALUES),
    "sequence_kronecker": (*EIGENVECTORS, *EIGENVALUES),
    "diagonal": LAMBDA,
    "identity": (),
}


class CurvatureError(ValueError):
    """The factors cannot be used: not finite, or zero where something must be divided by them."""


@dataclass(frozen=True)
class Curvature:
    """Which approximation of the Gauss-Newton Hessian H, from how many blocks, and how it is damped.

    Args:
        strategy: `ekfac` (Grosse et al., 2023), `kfac`, `sequence_kronecker` (`ifguide.influence.sequence_kronecker`),
            `diagonal`, or `identity` (nothing is fitted, H + δI = I).
        blocks: training blocks to fit on, sampled at random.
        damping: δ, or with `relative` its ratio to the mean eigenvalue of each layer.
        relative: eigenvalues are second moments of whole-block gradients, but K-FAC's are per token, so that an
            absolute damping does not compare across them; the reference code ran the absolute 1e-8.
        empirical_fisher: fit on the true next tokens instead of sampled ones (the true Fisher).

    Raises:
        ValueError: unknown strategy, or a number out of range.
    """

    strategy: str = "ekfac"
    blocks: int = 512
    damping: float = 0.01
    relative: bool = True
    empirical_fisher: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in FACTORS:
            raise ValueError(f"strategy={self.strategy}; known: {', '.join(FACTORS)}")
        check_whole_number("blocks", self.blocks, least=1)
        if self.damping < 0:
            raise ValueError(f"damping={self.damping}: a damping is 0 or more")

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
    ) -> dict[str, Tensor]:
        """Fit the factors of the tracked layers, in float32.

        Args:
            model: the proxy; it is copied, never changed. Its device decides where the factors are fitted.
            blocks: [blocks, T] token ids.
            batch_size: blocks at a time.
            seed: of the labels sampled from the model.
            layers: names of the layers to fit; None: all tracked layers.
            progress: show progress bars.

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
        task = _LanguageModelingTask(names)
        devices = [clone.device] if clone.device.type == "cuda" else []
        if self.strategy == "sequence_kronecker":
            with torch.random.fork_rng(devices=devices), _curvature_errors():
                torch.manual_seed(seed)
                return sequence_factors(
                    clone,
                    names,
                    blocks,
                    lambda ids: task.compute_train_loss(ids, clone, sample=not self.empirical_fisher),
                    progress=progress,
                )
        with tempfile.TemporaryDirectory() as scratch, _single_process(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            prepared = prepare_model(clone, task)
            for name in flat:
                give_by_block(prepared, name, lambda: task.blocks)
            analyzer = Analyzer(
                analysis_name="curvature",
                model=prepared,
                task=task,
                cpu=clone.device.type == "cpu",
                log_level=logging.WARNING,
                disable_tqdm=not progress,
                output_dir=scratch,
            )
            arguments = FactorArguments(
                strategy=self.strategy,
                use_empirical_fisher=self.empirical_fisher,
                covariance_max_examples=None,
                lambda_max_examples=None,
            )
            try:
                analyzer.fit_all_factors(
                    factors_name="fit",
                    dataset=_Blocks(blocks),
                    per_device_batch_size=batch_size,
                    factor_args=arguments,
                    overwrite_output_dir=True,
                )
            except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
                raise CurvatureError(
                    f"a covariance has no eigendecomposition ({error}): the proxy's activations or gradients are not "
                    "finite or of extreme size; check the proxy, or use curvature=diagonal"
                ) from None
            loaded = analyzer.load_all_factors("fit")
        if "lambda_matrix" in FACTORS[self.strategy]:
            for name in flat:  # what no token of a block reaches has no gradient there
                loaded["num_lambda_processed"][name] = torch.full_like(
                    loaded["num_lambda_processed"][name], len(blocks)
                )
        factors = {f"{layer}/{name}": loaded[name][layer].clone() for layer in names for name in FACTORS[self.strategy]}
        for key, value in factors.items():
            if not torch.isfinite(value).all():
                raise CurvatureError(f"the fitted factor {key} is not finite; fit on more blocks or check the proxy")
        check_counts(by_layer(factors), len(blocks))
        return factors

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
            q_out, q_in = factors["gradient_eigenvectors"].to(work), factors["activation_eigenvectors"].to(work)
            work = q_out.T @ work @ q_in
        if set(EIGENVALUES) <= set(FACTORS[self.strategy]):
            outputs, inputs = factors["gradient_eigenvalues"].to(work), factors["activation_eigenvalues"].to(work)
            # eigh returns tiny negative values where the covariance has no rank
            eigenvalues = outputs.clamp_min(0)[:, None] * inputs.clamp_min(0)[None, :]
        else:
            eigenvalues = (factors["lambda_matrix"].to(work) / factors["num_lambda_processed"].to(work)).view_as(work)
        damped = eigenvalues + (self.damping * eigenvalues.mean() if self.relative else self.damping)
        if not torch.isfinite(damped).all() or (damped <= 0).any():
            raise CurvatureError(
                f"the damped eigenvalues range from {damped.min():.3g} to {damped.max():.3g}: "
                "use a larger damping, or fit on more blocks"
            )
        work = work / damped
        return (q_out @ work @ q_in.T if rotates else work).to(gradient.dtype)


def save_factors(factors: Mapping[str, Tensor], directory: Path) -> None:
    save_file({key: value.contiguous() for key, value in factors.items()}, directory / FACTORS_FILE)


def load_factors(directory: Path) -> dict[str, dict[str, Tensor]]:
    return by_layer(load_file(directory / FACTORS_FILE))


def by_layer(factors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Layer → factor name → tensor, from what `Curvature.fit` returns."""
    nested: dict[str, dict[str, Tensor]] = {}
    for key, value in factors.items():
        layer, _, name = key.rpartition("/")
        nested.setdefault(layer, {})[name] = value
    return nested


def check_counts(factors: Mapping[str, Mapping[str, Tensor]], blocks: int | None = None) -> None:
    """Raise CurvatureError where the eigenvalues of a layer are means over anything else than blocks.

    Args:
        factors: layer → factors.
        blocks: number of blocks; None: the number of most layers.
    """
    counts = {layer: int(parts[LAMBDA[1]]) for layer, parts in factors.items() if LAMBDA[1] in parts}
    right = blocks or (statistics.mode(counts.values()) if counts else 0)
    if wrong := [layer for layer, count in counts.items() if count != right]:
        raise CurvatureError(
            f"{wrong[0]} counts {counts[wrong[0]]} examples where there are {right} blocks, so its eigenvalues are of "
            "something else; leave it out (influence.layers), or use curvature=kfac; remove factors of older versions"
        )


class _LanguageModelingTask(Task):  # type: ignore[misc]  # kronfluence has no types
    """Sum over all tokens of the negative log-likelihood, of true or of sampled next tokens (true Fisher)."""

    def __init__(self, layers: Sequence[str]) -> None:
        self._layers, self.blocks = list(layers), 0

    def compute_train_loss(self, batch: Tensor, model: torch.nn.Module, sample: bool = False) -> Tensor:
        self.blocks = len(batch)
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1].flatten(0, 1).float()
        if sample:
            with torch.no_grad():
                labels = torch.multinomial(logits.softmax(-1), 1).flatten()
        else:
            labels = batch[:, 1:].flatten()
        return F.cross_entropy(logits, labels, reduction="sum")

    def compute_measurement(self, batch: Tensor, model: torch.nn.Module) -> Tensor:
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self) -> list[str]:
        return self._layers


class _Blocks(TorchDataset[Tensor]):
    def __init__(self, blocks: NDArray[np.int64]) -> None:
        self._blocks = torch.from_numpy(np.ascontiguousarray(blocks))

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> Tensor:
        return self._blocks[index]


@contextmanager
def _curvature_errors() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise CurvatureError(str(error)) from None


@contextmanager
def _single_process() -> Iterator[None]:
    """kronfluence reads LOCAL_RANK, keeps its process state for ever, and sets the level of all logs; factors are
    fitted by one process alone."""
    saved, level = os.environ.pop("LOCAL_RANK", None), logging.root.level
    State._reset_state()
    try:
        yield
    finally:
        State._reset_state()
        logging.root.setLevel(level)
        if saved is not None:
            os.environ["LOCAL_RANK"] = saved
