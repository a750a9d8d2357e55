"""The steering vectors of a model: the mean hidden state of toxic texts less that of the others, after each block."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ifguide.corpus.documents import LabelledText
from ifguide.corpus.labelled import check_labelled, encode_texts
from ifguide.corpus.padding import pad
from ifguide.models import LoadOptions, decoder_blocks, load_model
from ifguide.training.auxiliary import LabelledAuxiliary
from ifguide.training.context import TrainingContext
from ifguide.workspace import global_rank

VECTORS_FILE = "steering.safetensors"
VECTORS = "vectors"  # [N, H]

# N decoder blocks, H hidden size, B texts, T tokens


@dataclass(frozen=True, kw_only=True)
class SteeringVector(LabelledAuxiliary):
    """u after every block: mean h(toxic) − mean h(non-toxic), h at the last token of labelled texts; no training.

    A text is toxic from a toxicity of 0.5 on. Of one longer than a block of the corpus, the first tokens are read.
    """

    setting: ClassVar[str] = "vector"
    continues: ClassVar[str] = "model"

    def check(self, texts: Sequence[LabelledText]) -> None:
        """See `LabelledAuxiliary`."""
        check_labelled(texts)

    def check_corpus(
        self, texts: Sequence[LabelledText], tokenizer: PreTrainedTokenizerFast, block_length: int
    ) -> None:
        """See `LabelledAuxiliary`."""

    def train(
        self,
        start: str | Path,
        texts: Sequence[LabelledText],
        *,
        tokenizer: PreTrainedTokenizerFast,
        block_length: int,
        context: TrainingContext,
        options: LoadOptions,
    ) -> dict[str, Any]:
        """See `LabelledAuxiliary`; leaves `steering.safetensors`."""
        if global_rank() != 0:
            return {}
        model = load_model(start, **asdict(options)).to(context.trainer.device).eval()  # type: ignore[arg-type]
        encoded = encode_texts([one.text for one in texts], tokenizer, config=model.config)
        encoded = [ids[:-1][:block_length] for ids in encoded]  # without the token that ends a text
        toxic = np.array([one.toxic for one in texts])
        vectors = difference_of_means(model, encoded, toxic, batch_size=context.trainer.micro_batch_size)
        save_file({VECTORS: vectors.float().cpu().contiguous()}, context.directory / VECTORS_FILE)
        return {"toxic": int(toxic.sum()), "nontoxic": int((~toxic).sum())}


def load_vectors(folder: Path) -> Tensor:
    """[N, H], float32."""
    return load_file(folder / VECTORS_FILE)[VECTORS]


@torch.no_grad()
def difference_of_means(
    model: PreTrainedModel, encoded: Sequence[NDArray[np.int64]], toxic: NDArray[np.bool_], *, batch_size: int
) -> Tensor:
    """u after every decoder block, [N, H] float64.

    Texts of like length are run together and padded on the right, which a causal model never looks at.

    Args:
        model: on the device that computes.
        encoded: token ids of each text.
        toxic: [texts], which of them are.
        batch_size: texts at a time.
    """
    model.eval()
    count = len(decoder_blocks(model)[1])
    sums = torch.zeros(2, count, 1, dtype=torch.float64)
    order = sorted(range(len(encoded)), key=lambda text: len(encoded[text]))
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        ids_BT, _ = pad([encoded[text] for text in chosen])
        last = torch.tensor([len(encoded[text]) - 1 for text in chosen])
        with block_outputs(model) as outputs:
            model(input_ids=ids_BT.to(model.device), use_cache=False)
        states_NBH = torch.stack([hidden[torch.arange(len(last)), last].double().cpu() for hidden in outputs])
        is_toxic = torch.from_numpy(toxic[chosen])
        sums = sums + torch.stack([states_NBH[:, is_toxic].sum(1), states_NBH[:, ~is_toxic].sum(1)])
    return sums[0] / int(toxic.sum()) - sums[1] / int((~toxic).sum())


@contextmanager
def block_outputs(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """The hidden states [B, T, H] after each decoder block of what the model reads within this context."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs.append(hidden_state(output))

    handles = [block.register_forward_hook(keep) for block in decoder_blocks(model)[1]]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def hidden_state(output: Any) -> Tensor:
    """Of what a decoder block returns: its hidden state, or a tuple that begins with it."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden
