"""Evaluation prompts: of any file, and of published data sets whose records need more than a field's name."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ifguide.checks import check_limit
from ifguide.corpus.documents import Prompt
from ifguide.corpus.records import Record, read_records
from ifguide.corpus.schema import PROMPT, ListOf


def local_prompts(
    *,
    files: str | Sequence[str],
    field: str = "prompt",
    subset: str | None = None,
    separator: str | None = "\n",
    limit: int | None = None,
) -> list[Prompt]:
    r"""Evaluation prompts from records of any jsonl, parquet or txt file.

    Args:
        files: files or globs.
        field: the field with the text.
        subset: the field that groups prompts in the metrics; None: one group.
        separator: between the prompts of a `.txt` file, in which `\n` may stand for a line break; None: a file is one
            prompt.
        limit: at most this many prompts.

    Raises:
        ValueError: no such file, or none with a prompt, a limit below 1, a field that is missing or holds no text.
    """
    check_limit(limit)
    prompts = [
        _prompt(row, field, subset, row.place) for row in read_records(files, text_field=field, separator=separator)
    ]
    if not prompts:
        raise ValueError(f"files={files}: there is no prompt in it")
    return prompts[:limit]


def _prompt(row: Record, field: str, subset: str | None, record: str) -> Prompt:
    text, group = row.read(PROMPT, text=field, subset=subset)
    return Prompt(text, "prompts" if subset is None else str(group), record)


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
    check_limit(per_entity, "per_entity")
    check_limit(limit)
    entities, subsets = Counter[str](), Counter[str]()
    prompts = []
    for row in read_records(files):
        entity = "/".join(str(row.get(key)) for key in ("domain", "category", "name"))
        rule, field = (ListOf(PROMPT["text"]), "prompts") if "prompts" in row.values else (PROMPT["text"], "text")
        texts, group = row.read({**PROMPT, "text": rule}, text=field, subset=subset)
        name = "prompts" if subset is None else str(group)
        for text in [texts] if isinstance(texts, str) else texts:
            if entities[entity] != per_entity and subsets[name] != limit:
                prompts.append(Prompt(text.rstrip(), name, f"{entity}/{entities[entity]}"))
                entities[entity] += 1
                subsets[name] += 1
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
    check_limit(limit)
    seen: set[str] = set()
    counts = Counter[tuple[str, str]]()
    prompts = []
    for row in read_records(files):
        kind = (str(row.get("group")), str(row.get("prompt_label")))
        prompt = _prompt(row, "prompt", subset, row.place)
        text = prompt.text.replace("\\n", "\n")
        if text in seen or counts[kind] == limit:
            continue
        seen.add(text)
        prompts.append(replace(prompt, text=text))
        counts[kind] += 1
    return prompts
