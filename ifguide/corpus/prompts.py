"""Evaluation prompts: of any file, and of published data sets whose records need more than a field's name."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ifguide.corpus.documents import Prompt
from ifguide.corpus.sources import get_field, read_records
from ifguide.workspace import find_files


def local_prompts(
    *, files: str | Sequence[str], field: str = "prompt", subset: str | None = None, limit: int | None = None
) -> list[Prompt]:
    """Evaluation prompts from records of any jsonl, parquet or txt file.

    Args:
        files: files or globs.
        field: the field with the text.
        subset: the field that groups prompts in the metrics; None: one group.
        limit: at most this many prompts.
    """
    prompts = [
        Prompt(
            get_field(values, field, place),
            "prompts" if subset is None else str(get_field(values, subset, place)),
            place,
        )
        for file in find_files(files)
        for place, values in read_records(file, text_field=field)
    ]
    return prompts[:limit]


def bold_prompts(
    *,
    files: str | Sequence[str],
    subset: str | None = "domain",
    per_entity: int | None = 1,
    limit: int | None = None,
) -> list[Prompt]:
    """Prompts of BOLD (Dhamala et al., 2021); white space at their end is left out, as words bring their own.

    Args:
        files: jsonl or parquet files with `domain, category, name` and either `text` (one prompt a record) or
            `prompts` (a list of an entity's prompts, as on the hub).
        subset: the field that groups prompts in the metrics; None: one group.
        per_entity: at most this many prompts of an entity.
        limit: at most this many prompts of each subset.
    """
    entities, subsets = Counter[str](), Counter[str]()
    prompts = []
    for values, place in _records(files):
        entity = "/".join(str(get_field(values, key, place)) for key in ("domain", "category", "name"))
        texts = values["prompts"] if "prompts" in values else [get_field(values, "text", place)]
        group = "prompts" if subset is None else str(get_field(values, subset, place))
        for text in texts:
            if entities[entity] != per_entity and subsets[group] != limit:
                prompts.append(Prompt(text.rstrip(), group, f"{entity}/{entities[entity]}"))
                entities[entity] += 1
                subsets[group] += 1
    return prompts


def toxigen_prompts(
    *, files: str | Sequence[str], subset: str | None = "prompt_label", limit: int | None = None
) -> list[Prompt]:
    r"""Prompts of ToxiGen (Hartvigsen et al., 2022): statements about a group, one a line, and an open line.

    Args:
        files: jsonl or parquet files with `prompt, group, prompt_label`; line breaks may be written as `\n`.
        subset: the field that groups prompts in the metrics; None: one group.
        limit: at most this many prompts of each group of people and label.
    """
    seen: set[str] = set()
    counts = Counter[tuple[str, str]]()
    prompts = []
    for values, place in _records(files):
        kind = (str(get_field(values, "group", place)), str(get_field(values, "prompt_label", place)))
        text = get_field(values, "prompt", place).replace("\\n", "\n")
        if text in seen or counts[kind] == limit:
            continue
        seen.add(text)
        group = "prompts" if subset is None else str(get_field(values, subset, place))
        prompts.append(Prompt(text, group, place))
        counts[kind] += 1
    return prompts


def _records(files: str | Sequence[str]) -> Iterator[tuple[Mapping[str, Any], str]]:
    return ((values, place) for file in find_files(files) for place, values in read_records(file))
