"""What a stage would cost, before it is built: arithmetic, seconds, memory and disk (`stage=plan`)."""

from ifguide.cost.shape import FLOAT, ModelShape, shape_of
from ifguide.cost.typical import MICRO, PROMPT, SECONDS_PER_TEXT, TOKENIZER, generating, lacking, reading, training
from ifguide.cost.work import PROCESS, CorpusSize, Memory, Pass, Work

__all__ = [
    "FLOAT",
    "MICRO",
    "PROCESS",
    "PROMPT",
    "SECONDS_PER_TEXT",
    "TOKENIZER",
    "CorpusSize",
    "Memory",
    "ModelShape",
    "Pass",
    "Work",
    "generating",
    "lacking",
    "reading",
    "shape_of",
    "training",
]
