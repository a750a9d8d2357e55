"""Posts whose annotators marked the words that decided their judgement, as in HateXplain."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ifguide.corpus.documents import BENIGN, TOXIC, Document
from ifguide.corpus.records import read_records
from ifguide.corpus.schema import RATIONALES, Classes
from ifguide.corpus.sources import merge_spans
from ifguide.workspace import find_files


@dataclass(frozen=True, kw_only=True)
class RationaleSource:
    """Documents of records with `post_tokens`, `annotators.label` and `rationales` (Mathew et al., 2021).

    A post is benign where most annotators gave it a benign label; of any other, those words are toxic that at least
    half of the rationales hold.

    Args:
        files: a path or glob, or several.
        benign: the benign labels (HateXplain: 1 is normal).
        name: name of the source in the document index.

    Raises:
        ValueError: no such file; when read, a field that is missing or breaks its rule, or a rationale of another
            length than its post.
    """

    files: str | Sequence[str]
    benign: Sequence[int] = (1,)
    name: str = "rationales"

    def __post_init__(self) -> None:
        find_files(self.files)

    def __iter__(self) -> Iterator[Document]:
        for record, row in enumerate(read_records(self.files)):
            words, labels, rationales = row.read(
                RATIONALES, words="post_tokens", labels="annotators.label", rationales="rationales"
            )
            if any(len(rationale) != len(words) for rationale in rationales):
                raise row.mistake("a rationale has one number per word of its post")
            votes = Counter(
                Classes(self.benign).of("annotators.label", [(row.place, one) for one in labels], complete=False)
            )
            text, spans, end = " ".join(words), [], 0
            for index, word in enumerate(words):
                marks = sum(rationale[index] for rationale in rationales)
                if rationales and 2 * marks >= len(rationales):
                    spans.append((end, end + len(word)))
                end += len(word) + 1
            if votes[True] > votes[False]:
                yield Document(text, self.name, record, BENIGN, None)
            else:
                yield Document(text, self.name, record, TOXIC, merge_spans(spans, len(text)))
