"""Factors fitted by kronfluence, on the blocks of one process or on each process's share of them.

Covariances and the second moments in their eigenbases are sums over blocks, so each process fits on its share and the
sums are added (kronfluence's own way of doing so knows NCCL only). Each covariance is decomposed once, by one process.
Labels are sampled for whole batches, and a process draws the numbers of the batches that others take as well: so the
labels of a block do not depend on how many processes there are.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from kronfluence import FactorArguments, Task, prepare_model
from kronfluence.factor.covariance import fit_covariance_matrices_with_loader
from kronfluence.factor.eigen import fit_lambda_matrices_with_loader
from kronfluence.utils.state import State
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from transformers import PreTrainedModel

from ifguide.influence.factors import EIGENVECTORS, LAMBDA, SIDES, CurvatureError
from ifguide.influence.per_block import give_by_block
from ifguide.processes import Processes

CPU = torch.device("cpu")
ByLayer = dict[str, dict[str, Tensor]]  # factor → layer → tensor, as kronfluence has them


def kronfluence_factors(
    model: PreTrainedModel,
    layers: Sequence[str],
    flat: Sequence[str],
    blocks: NDArray[np.int64],
    *,
    strategy: str,
    kept: Sequence[str],
    empirical_fisher: bool,
    batch_size: int,
    seed: int,
    progress: bool,
    processes: Processes,
) -> ByLayer:
    """Factor → layer → tensor, on the CPU.

    Args:
        model: changed in place.
        layers: names of the layers to fit.
        flat: those of them that are given the tokens of all blocks as rows.
        blocks: [blocks, T] token ids.
        strategy: of kronfluence.
        kept: names of the factors that are wanted.
        empirical_fisher: true next tokens instead of sampled ones.
        batch_size: blocks at a time.
        seed: of the sampled labels.
        progress: show progress bars.
        processes: among which batches are shared.

    Raises:
        CurvatureError: a covariance without an eigendecomposition.
    """
    task = LanguageModelingTask(layers)
    arguments = FactorArguments(strategy=strategy, use_empirical_fisher=empirical_fisher)
    found: ByLayer = {}
    draws = None if empirical_fisher else vocabulary_of(model)
    with _single_process(), own_generator(model.device, seed):
        state = State(cpu=model.device.type == "cpu")
        prepared = prepare_model(model, task)
        for name in flat:
            give_by_block(prepared, name, lambda: task.blocks)
        loader = _Share(DataLoader(Blocks(blocks), batch_size), processes, draws, model.device)
        shared = (prepared, state, task, loader, arguments)

        def summed(fit: Callable[..., tuple[Tensor, ByLayer]], **options: ByLayer | None) -> ByLayer:
            if len(loader):
                _, mine = fit(*shared, tracked_module_names=list(layers), disable_tqdm=not progress, **options)
            else:
                list(loader)  # draws its numbers
                mine = {}
            return _nested(processes.sums(_flat(mine), CPU))

        if set(EIGENVECTORS) <= set(kept):
            found |= eigendecompositions(summed(fit_covariance_matrices_with_loader), processes)
        if set(LAMBDA) <= set(kept):
            found |= summed(fit_lambda_matrices_with_loader, eigen_factors=found or None)
    return found


def eigendecompositions(covariances: Mapping[str, Mapping[str, Tensor]], processes: Processes) -> ByLayer:
    """Eigenvectors and eigenvalues of the covariances of activations and of gradients, each found by one process.

    Args:
        covariances: factor → layer → sum over tokens, or how many there were.
        processes: among which layers are shared.

    Raises:
        CurvatureError: in all processes: one of them has none.
    """
    found: dict[str, Tensor] = {}
    error = None
    try:
        for layer in processes.share(sorted(covariances[f"{SIDES[0]}_covariance"])):
            for side in SIDES:
                total = covariances[f"{side}_covariance"][layer]
                mean = total.to(processes.device, torch.float64)
                mean = mean / covariances[f"num_{side}_covariance_processed"][layer].to(mean.device)
                values, vectors = torch.linalg.eigh((mean + mean.T) * 0.5)
                for name, value in (("eigenvalues", values), ("eigenvectors", vectors)):
                    found[f"{side}_{name}/{layer}"] = value.to(total)
    except torch.linalg.LinAlgError as failure:  # type: ignore[attr-defined]
        error = CurvatureError(
            f"a covariance has no eigendecomposition ({failure}): the proxy's activations or gradients are not "
            "finite or of extreme size; check the proxy, or use curvature=diagonal"
        )
    processes.agree(error)
    return _nested(processes.sums(found, CPU))


class LanguageModelingTask(Task):  # type: ignore[misc]  # kronfluence has no types
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


def draw_labels(count: int, vocabulary: int, device: torch.device) -> None:
    """Draw from the generator what sampling so many labels would draw."""
    torch.multinomial(torch.ones(1, 1, device=device).expand(count, vocabulary), 1)


def vocabulary_of(model: PreTrainedModel) -> int:
    """Columns of the model's logits."""
    with torch.no_grad():
        return int(model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device)).logits.shape[-1])


class _Share:
    """The batches of a loader that one process takes, in its turn.

    Args:
        loader: of all.
        processes: among which they are shared.
        vocabulary: of the labels that are sampled for a batch; None: none are.
        device: on which they are.
    """

    def __init__(
        self, loader: DataLoader[Tensor], processes: Processes, vocabulary: int | None, device: torch.device
    ) -> None:
        self._loader, self._processes, self._vocabulary, self._device = loader, processes, vocabulary, device

    def __len__(self) -> int:
        return len(self._processes.share(range(len(self._loader))))

    def __iter__(self) -> Iterator[Tensor]:
        for number, batch in enumerate(self._loader):
            if self._processes.takes(number):
                yield batch
            elif self._vocabulary is not None:
                draw_labels(batch[:, 1:].numel(), self._vocabulary, self._device)


class Blocks(TorchDataset[Tensor]):
    def __init__(self, blocks: NDArray[np.int64]) -> None:
        self._blocks = torch.from_numpy(np.ascontiguousarray(blocks))

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> Tensor:
        return self._blocks[index]


def _flat(factors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{factor}/{layer}": value for factor, layers in factors.items() for layer, value in layers.items()}


def _nested(factors: Mapping[str, Tensor]) -> ByLayer:
    nested: ByLayer = {}
    for key, value in factors.items():
        factor, _, layer = key.partition("/")
        nested.setdefault(factor, {})[layer] = value
    return nested


@contextmanager
def own_generator(device: torch.device, seed: int) -> Iterator[None]:
    """Within this context numbers are drawn from a seed; behind it, as if none had been."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _single_process() -> Iterator[None]:
    """kronfluence reads LOCAL_RANK, keeps its process state for ever, and sets the level of all logs; each process
    fits its share alone."""
    saved, level = os.environ.pop("LOCAL_RANK", None), logging.root.level
    State._reset_state()
    try:
        yield
    finally:
        State._reset_state()
        logging.root.setLevel(level)
        if saved is not None:
            os.environ["LOCAL_RANK"] = saved
