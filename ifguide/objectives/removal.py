"""Removal (Rathi and Radford, 2026, arXiv 2601.21571): the selected tokens are neither learned nor read."""

from torch import Tensor, nn

from ifguide.objectives.language_modeling import token_losses
from ifguide.objectives.linear_head import LinearLogits

# B blocks, T tokens, V vocabulary


def replaced(input_ids_BT: Tensor, mask_BT: Tensor, *, token: int) -> Tensor:
    """What the model reads, [B, T]: `token` in the place of every masked one, column 0 included."""
    return input_ids_BT.masked_fill(mask_BT, token)


def kept_cross_entropy(logits_BTV: Tensor | LinearLogits, input_ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over predicted tokens of 0 if mask[n,t], else ℓ[n,t].

    Args:
        logits_BTV: the model's output for what it reads (`replaced`).
        input_ids_BT, mask_BT: as in `suppressed_cross_entropy`. A mask of nothing is exactly plain cross-entropy.

    Returns:
        A scalar, 0 or more.
    """
    losses, mask = token_losses(logits_BTV, input_ids_BT)[:, 1:], mask_BT[:, 1:]
    return losses.masked_fill(mask, 0).mean()


class Removal(nn.Module):
    """Masked tokens are replaced by a reserved token where the model reads them, and their losses are dropped.

    Nothing that is learned depends on which tokens were masked, only on where they were. `token_filter` drops the same
    losses, but the tokens are read.

    The reserved token is the end-of-text token unless `token` names another. Every corpus and every model has it, no
    text holds it (a document that spells it out is not given it), and it already says that what came before tells
    little of what comes next. What it costs: what follows a removed token is learned as what follows an end of text,
    so beginnings of documents are predicted worse. A model with an id that no text has, as the spare rows of Pythia's
    vocabulary from 50277 on, does better with that one.

    Args:
        token: id of the reserved token; None: the end-of-text token of the corpus.

    Raises:
        ValueError: a token that is no id.
    """

    uses_mask = True

    def __init__(self, *, token: int | None = None) -> None:
        super().__init__()
        if token is not None and (isinstance(token, bool) or not isinstance(token, int) or token < 0):
            raise ValueError(f"token={token}: the id of a token is a whole number, 0 or more; null for end-of-text")
        self.token = token

    def check(self, vocabulary: int) -> None:
        """Raise ValueError where a model of so many token ids has none for the reserved one."""
        if self.token is not None and self.token >= vocabulary:
            raise ValueError(
                f"token={self.token}: the model reads ids below {vocabulary}; name one of them, or null for end-of-text"
            )

    def inputs(self, input_ids_BT: Tensor, mask_BT: Tensor | None, end_of_text: int | None) -> Tensor:
        """What the model reads in the place of a batch.

        Raises:
            ValueError: no mask, or neither a reserved token nor one for end-of-text.
        """
        token = end_of_text if self.token is None else self.token
        if mask_BT is None or token is None:
            missing = "the mask of the tokens to remove" if mask_BT is None else "the id of a reserved token"
            raise ValueError(f"Removal needs {missing}")
        return replaced(input_ids_BT, mask_BT, token=token)

    def forward(self, logits_BTV: Tensor | LinearLogits, input_ids_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        if mask_BT is None:
            raise ValueError("Removal needs the mask of the tokens to remove")
        return kept_cross_entropy(logits_BTV, input_ids_BT, mask_BT)
