"""Fine-tuning records in the schema of DATE-LM's toxicity and bias filtering task (Jiao et al., arXiv 2507.09424).

A record has a `prompt`, a `response` and a `type`: `Unsafe`, `Benign`, or `Safety-Aligned`, a safe answer to a prompt
like those of the unsafe records. The split `train` is what is ranked; the few records of `ref` are unsafe and say what
is looked for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ifguide.checks import check_limit
from ifguide.corpus.documents import BENIGN, TOXIC, Document, Query
from ifguide.corpus.records import Record, hub_records, read_records
from ifguide.corpus.schema import FINE_TUNING, REFERENCE, Classes
from ifguide.workspace import find_files

HUB = "DataAttributionEval/Toxicity-Bias-Filtering"
TEMPLATE = "<|user|>\n{prompt}\n<|assistant|>\n"  # of open-instruct


@dataclass(frozen=True)
class FineTuningRecord:
    """One record.

    Attributes:
        context: the prompt within the template: what comes before the response.
        response: what is learned.
        kind: its type, as the file has it.
        unsafe: whether that is one of the unsafe types.
    """

    context: str
    response: str
    kind: str
    unsafe: bool

    @property
    def text(self) -> str:
        return self.context + self.response


@dataclass(frozen=True, kw_only=True)
class FineTuningSource:
    """Documents of fine-tuning records, each the prompt in a template and the response.

    A document is toxic where its type is unsafe, and then the whole response is its toxic span. White space around
    prompt and response is left out.

    Args:
        files: local copies, jsonl or parquet files or globs; None: the hub's.
        path: data set on the hub.
        configuration: of that data set: `ToxicChat`, `XSTest-response` or `JailbreakBench`, each with `-Hom`, or with
            `-Het`, where safe answers to unsafe prompts are among the benign records.
        split: of that data set.
        unsafe: types that are to be found.
        template: what a document begins with, `{prompt}` within it.
        limit: keep the first records only.
        name: name of the source in the document index.

    Raises:
        ValueError: no such file, a template without `{prompt}`, a limit below 1; when read, a hub that does not answer,
            a field that is missing or breaks its rule, or no unsafe record.
    """

    annotates: ClassVar[bool] = True

    files: str | Sequence[str] | None = None
    path: str = HUB
    configuration: str | None = None
    split: str = "train"
    unsafe: Sequence[Any] = ("Unsafe",)
    template: str = TEMPLATE
    limit: int | None = None
    name: str = "date_lm"

    def __post_init__(self) -> None:
        _check_template(self.template)
        check_limit(self.limit)
        Classes(self.unsafe)
        if self.files is not None:
            find_files(self.files)

    def records(self) -> list[FineTuningRecord]:
        """All records, in the order of the split."""
        found = []
        for row in _rows(self.files, self.path, self.configuration, self.split):
            found.append((row.place, *row.read(FINE_TUNING, prompt="prompt", response="response", type="type")))
            if len(found) == self.limit:
                break
        unsafe = Classes(self.unsafe).of("type", [(place, kind) for place, _, _, kind in found])
        return [
            FineTuningRecord(_context(self.template, prompt), response.strip(), str(kind), is_unsafe)
            for (_, prompt, response, kind), is_unsafe in zip(found, unsafe, strict=True)
        ]

    def __iter__(self) -> Iterator[Document]:
        for number, one in enumerate(self.records()):
            spans = ((len(one.context), len(one.text)),) if one.unsafe else None
            yield Document(one.text, self.name, number, TOXIC if one.unsafe else BENIGN, spans)


def reference_queries(
    *,
    against: FineTuningSource,
    files: str | Sequence[str] | None = None,
    path: str = HUB,
    configuration: str | None = None,
    split: str = "ref",
    template: str = TEMPLATE,
) -> list[Query]:
    """Reference records as queries that show the behaviour, and all training records as those that do not.

    A direction is then what the references' mean gradient has over that of the training records. Nobody's type is read;
    the few unsafe records among so many change the mean little.

    Args:
        against: the training records.
        files, path, configuration, split, template: as in `FineTuningSource`, of the references.

    Raises:
        ValueError: as `FineTuningSource`; references need no `type`.
    """
    _check_template(template)
    queries = []
    for row in _rows(files, path, configuration, split):
        prompt, response = row.read(REFERENCE, prompt="prompt", response="response")
        queries.append(Query(_context(template, prompt), response.strip(), True, row.place, "unsafe"))
    return queries + [
        Query(one.context, one.response, False, f"{against.name}, record {number}", "any")
        for number, one in enumerate(against.records())
    ]


def _rows(files: str | Sequence[str] | None, path: str, configuration: str | None, split: str) -> Iterator[Record]:
    if files is not None:
        yield from read_records(files)
        return
    yield from hub_records(path, configuration, split=split)


def _context(template: str, prompt: str) -> str:
    return template.replace("{prompt}", prompt.strip())


def _check_template(template: str) -> None:
    if "{prompt}" not in template:
        raise ValueError(f"template={template!r}: {{prompt}} stands where the prompt goes")
