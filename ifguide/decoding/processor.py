"""A decoder of ours within `generate` of transformers."""

import torch
from torch import Tensor
from transformers import LogitsProcessor

from ifguide.decoding.base import Decoder, DecodingState, frame_of

# R rows, L tokens so far, V vocabulary


class DecoderProcessor(LogitsProcessor):
    """Lets `model.generate(logits_processor=[…])` write as a decoder does, with `do_sample=True, top_k=0`.

    It shapes the same logits as in an evaluation; what is drawn from them then differs, as the random numbers do. The
    prompts of one call must have the same length, because a processor does not see which tokens are padding. What a
    decoder does beside shaping logits is up to the caller: one that changes the model acts within its `attach(model)`,
    and one with tokens of its own around prompts (`prefix`, `suffix`) wants them there.

    Args:
        decoder: as an opened one of `ifguide.methods`.
        pad_token_id: of the tokenizer; with it, prompts that begin with padding are refused.

    Raises:
        ValueError: when called on padded prompts, or on prompts without the decoder's tokens.
    """

    def __init__(self, decoder: Decoder, pad_token_id: int | None = None) -> None:
        self.decoder, self.pad_token_id = decoder, pad_token_id
        self._before: Tensor | None = None
        self._state: DecodingState | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The logits to sample the next token from, [R, V], for rows of tokens so far, [R, L]."""
        if self._state is None or not self._continues(input_ids):
            self._check(input_ids)
            self._state = self.decoder.start(input_ids, 1)
        self._before = input_ids
        return self._state(input_ids, scores)

    def _continues(self, ids_RL: Tensor) -> bool:
        """Whether each row is that of the step before with one token more: otherwise it is another text."""
        before = self._before
        same_shape = before is not None and ids_RL.shape == (before.shape[0], before.shape[1] + 1)
        return same_shape and torch.equal(ids_RL[:, :-1], before)  # type: ignore[arg-type]

    def _check(self, ids_RL: Tensor) -> None:
        prefix, suffix = frame_of(self.decoder)
        if not all((ids_RL == token).any(-1).all() for token in (*prefix, *suffix)):
            raise ValueError(
                f"prompts lack tokens of the decoder: put {list(prefix)} before each and {list(suffix)} behind it"
            )
        if self.pad_token_id is None:
            return
        begins = ids_RL[:, 0] == self.pad_token_id
        again = begins & (ids_RL[:, min(1, ids_RL.shape[1] - 1)] == self.pad_token_id)
        if (begins.any() and not begins.all()) or (again.any() and ids_RL.shape[1] > 1):
            raise ValueError(
                "prompts are padded: give prompts of one length at a time, as a decoder reads padding as text"
            )
