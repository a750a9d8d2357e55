"""What is compared, on which corpus, with which settings to try."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Method → the settings that are tried, as Hydra sweeps them: three of each that has a setting of its own.
GRIDS: dict[str, tuple[str, ...]] = {
    "none": (),
    "word_filter": ("filter.at_least=1,2,3",),
    "toxicity_filter": ("filter.threshold=0.5,0.9,0.97",),
    "influence_filter": ("filter.share=0.03,0.1,0.5",),
    "token_filter": (),
    "unlikelihood": ("objective.weight=0.3,1,3",),
    "npo": ("objective.weight=0.3,1,3",),
    "faded_ascent": ("objective.penalty=0.3,1,3",),
    "dpo": ("post_training.optim.learning_rate=2e-5,5e-5,2e-4",),
    "rad": ("decoding.beta=0,3,10,30",),
    "dexperts": ("decoding.alpha=0.5,1,2",),
    "ifguide": ("objective.penalty=0.1,0.3,1",),
}
# Decoders that do not sample from the nucleus, which alone changes the perplexity of what they write (of a small model
# on real text it becomes a third) → the setting with which they do nothing else, and with which their other settings
# are compared. It is not chosen.
UNSTEERED = {"rad": ("decoding.beta=0",)}
VALIDATION_TEXT = "perplexity_split=validation"
START = "{start}"  # stands for the folder of the uncensored model of the validation seed


@dataclass(frozen=True)
class Size:
    """What is run.

    Args:
        every: overrides of every run.
        tune: overrides of the runs that are compared, beside `every`.
        prompts: of the validation runs, and of the test runs.
        methods: method → what it needs beside its settings.
        grids: method → settings to try instead of those in `GRIDS`.
        seeds: of the test runs.
        about: a paragraph on the comparison.
    """

    every: tuple[str, ...]
    tune: tuple[str, ...]
    prompts: tuple[tuple[str, ...], tuple[str, ...]]
    methods: Mapping[str, tuple[str, ...]]
    seeds: str
    about: str
    grids: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


TINY = (
    "data.sources.sample.size=300", "data.tokenizer.vocabulary=400", "data.block_length=32", "labelled.size=100",
    "model.settings.hidden_size=16", "model.settings.num_hidden_layers=2", "model.settings.intermediate_size=32",
    "proxy.settings.hidden_size=16", "proxy.settings.num_hidden_layers=2", "proxy.settings.intermediate_size=32",
    "optim.epochs=0.5", "proxy_optim.epochs=0.5", "curvature.blocks=8", "pairs.size=60",
    "evaluation.prompts.size=6", "evaluation.samples=3", "evaluation.max_new_tokens=5", "trainer.progress=false",
)  # fmt: skip
OFFENSIVE = "${paths.datasets}/toxicity_labelled/tweeteval_offensive.jsonl.gz"
TUNE = (  # of real text
    f"model.pretrained={START}", "optim.epochs=0.15", "optim.learning_rate=1e-3", "evaluation.prompts.limit=100",
    f"proxy.pretrained={START}", "proxy_optim.epochs=0",  # so that the seconds of no row are of what all start from
    "labelled=local", f"labelled.files={OFFENSIVE}", "labelled.positive=[1]", "pairs=paradetox",
)  # fmt: skip
SAMPLE = Size(
    every=(),
    tune=(),
    prompts=(("evaluation.prompts.seed=1000", VALIDATION_TEXT), ()),
    methods={},
    seeds="1,2,3",
    about="""The built-in sample, whose writer knows which posts insult. Every model is trained from nothing.
What each method learns from, beside the corpus: IF-Guide, the methods on its mask, `word_filter` and
`influence_filter` from queries (toxic and other continuations); `toxicity_filter` from the evaluator itself; RAD and
DExperts from labelled posts; DPO from pairs of a polite and an insulting continuation. All are of one writer: no rival
could have better data.""",
)  # fmt: skip
SIZES = {
    "sample": SAMPLE,
    "tiny": Size(
        every=TINY, tune=(), prompts=SAMPLE.prompts, methods={}, seeds="1", about="A check that everything runs.",
    ),
    "real_text": Size(
        every=("+experiment=real_text",),
        tune=TUNE,
        prompts=(("+evaluation.prompts.part=validation", VALIDATION_TEXT), ("+evaluation.prompts.part=test",)),
        methods={
            "toxicity_filter": (
                "classifier@filter.classifier=trained",
                # neither what the evaluator learned from, nor what the corpus holds
                "~filter.classifier.texts.davidson", "~filter.classifier.texts.wikipedia",
                # whole documents, and a share: trained on tweets, it finds something in most long reviews
                "filter.window=null", "filter.threshold=null", "filter.share=0.3",
            ),
            "dexperts": (f"decoding.experts.pretrained={START}",),
            "dpo": ("post_training.validate_every=100",),  # of the thousand steps that ParaDetox is
        },
        seeds="1,2,3",
        grids={
            "toxicity_filter": ("filter.share=0.3,0.5,0.7",),
            "influence_filter": ("filter.share=0.1,0.5,0.7",),
            "dpo": ("post_training.optim.learning_rate=3e-6,1e-5,3e-5",),
            "dexperts": ("decoding.alpha=0.25,0.5,1",),
        },
        about="""Text that people wrote (`+experiment=real_text`). Every row continues one uncensored model, its proxy,
for 0.15 of a pass: a filter can only refrain from teaching more of what that model knows, and the seconds are without
that model's.
What each method learns from, beside the corpus: IF-Guide, the methods on its mask, `word_filter` and `influence_filter`
from RealToxicityPrompts queries, of other source documents than all prompts; `toxicity_filter`, RAD and DExperts from
tweets labelled for offence (OLID), which are neither in the corpus nor what the evaluator was trained on; DPO from
ParaDetox. Validation and test prompts are of different source documents.""",
    ),
}  # fmt: skip
