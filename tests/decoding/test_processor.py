"""Our decoders within `generate` of transformers."""

import pytest
import torch
from tiny import VOCABULARY, tiny_model
from transformers import LogitsProcessorList

from ifguide.decoding import DecoderProcessor, Nucleus
from ifguide.methods.conditional import ConditionalDecoder
from ifguide.methods.dexperts import ExpertDecoder
from ifguide.methods.rad import RewardAugmentedDecoder
from ifguide.methods.rad.model import RewardModel
from ifguide.methods.rad.tokens import TokenTranslation

SAMPLED = dict(do_sample=True, top_k=0, top_p=1.0, max_new_tokens=6, pad_token_id=0)
PROMPTS = torch.tensor([[0, 5, 9], [0, 7, 2]])


def rad():
    model = RewardModel(tiny_model(seed=1).base_model).eval()
    torch.manual_seed(1)
    torch.nn.init.normal_(model.head.weight, std=0.1)
    same = TokenTranslation(torch.arange(VOCABULARY)[:, None], torch.ones(VOCABULARY, dtype=torch.long), 0)
    return RewardAugmentedDecoder(model, same, top_k=4, beta=3.0)


def dexperts():
    return ExpertDecoder(tiny_model(seed=1), tiny_model(seed=2), alpha=1.5, top_p=0.8)


class Recording(DecoderProcessor):
    """Keeps what it was given and what it made of it."""

    def __init__(self, decoder, **options):
        super().__init__(decoder, **options)
        self.steps = []

    def __call__(self, input_ids, scores):
        shaped = super().__call__(input_ids, scores.clone())
        self.steps.append((input_ids, scores.clone(), shaped.clone()))
        return shaped


@pytest.mark.parametrize("decoder", [rad, dexperts, lambda: Nucleus(top_p=0.7)], ids=["rad", "dexperts", "nucleus"])
@torch.no_grad()
def test_generate_samples_from_the_logits_of_our_decoder(decoder):
    """Every step of `generate` beside the decoder that an evaluation would use, on the text so far."""
    processor = Recording(decoder())
    torch.manual_seed(0)
    written = tiny_model().generate(
        PROMPTS, attention_mask=torch.ones_like(PROMPTS), num_return_sequences=3, eos_token_id=None,
        logits_processor=LogitsProcessorList([processor]), **SAMPLED,
    )  # fmt: skip
    assert written.shape == (6, 9) and len(processor.steps) == 6
    own = decoder().start(PROMPTS, 3)
    for ids, logits, shaped in processor.steps:
        expected = own(ids, logits.clone())
        assert torch.allclose(shaped, expected, atol=1e-5), ids.shape
        assert torch.isfinite(shaped).any(1).all() and torch.isinf(shaped).any()
        if ids.shape[1] < written.shape[1]:
            drawn = written[:, ids.shape[1]]
            assert torch.isfinite(shaped.gather(1, drawn[:, None])).all(), "a token outside of the nucleus was drawn"


@torch.no_grad()
def test_another_text_begins_anew():
    processor = DecoderProcessor(dexperts())
    logits = torch.randn(2, VOCABULARY)
    first = processor(PROMPTS, logits.clone())
    processor(torch.cat([PROMPTS, PROMPTS[:, :1]], 1), logits.clone())
    assert torch.allclose(processor(PROMPTS, logits.clone()), first)
    assert torch.allclose(processor(PROMPTS.flip(0), logits.clone()).flip(0), processor(PROMPTS, logits.flip(0)))


def test_prompts_without_the_tokens_of_the_decoder_are_refused():
    decoder = ConditionalDecoder([7, 8], prefix=[7], nucleus=Nucleus())
    logits = torch.zeros(2, VOCABULARY)
    DecoderProcessor(decoder)(torch.tensor([[7, 5], [7, 3]]), logits)
    with pytest.raises(ValueError, match=r"lack tokens of the decoder: put \[7\] before each and \[\] behind it"):
        DecoderProcessor(decoder)(torch.tensor([[7, 5], [4, 3]]), logits)


def test_padded_prompts_are_refused():
    processor = DecoderProcessor(Nucleus(), pad_token_id=0)
    logits = torch.zeros(2, VOCABULARY)
    processor(torch.tensor([[0, 5], [0, 7]]), logits)  # texts that begin with it
    for padded in ([[0, 5], [3, 7]], [[0, 0, 5], [0, 3, 7]]):
        with pytest.raises(ValueError, match="prompts of one length"):
            processor(torch.tensor(padded), logits)
