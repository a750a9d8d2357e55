"""Readers of files, fed with mutations of good files: each ends in a value, or in a ValueError of one line.

    python tests/fuzz.py [cases] [seed] [first]

Case k of a seed is always the same, however many there are. The counts go into `tests/fuzz.json`, which
`docs/faults.md` shows. A case that ends otherwise stops the script, which prints its number and keeps its file.
"""

import gzip
import io
import json
import logging
import lzma
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from transformers import AutoConfig, AutoModelForCausalLM

from ifguide.corpus.fine_tuning import FineTuningSource, reference_queries
from ifguide.corpus.insertion import Insertion
from ifguide.corpus.labelled import LabelledSource, TextScores
from ifguide.corpus.masks import TokenMask
from ifguide.corpus.pairs import local_pairs
from ifguide.corpus.prompts import bold_prompts, local_prompts, toxigen_prompts
from ifguide.corpus.queries import local_queries
from ifguide.corpus.rationales import RationaleSource
from ifguide.corpus.real_toxicity_prompts import real_toxicity_prompts, real_toxicity_queries
from ifguide.corpus.sources import LocalSource
from ifguide.corpus.tokenizers import make_tokenizer, train_byte_level_bpe
from ifguide.corpus.words import read_words
from ifguide.evaluation.fluency import UnitLosses
from ifguide.evaluation.lambada import Lambada
from ifguide.influence.store import open_scores
from ifguide.methods.samples import load_samples, save_samples
from ifguide.models import ModelSettings
from ifguide.report.formats import comma_separated, latex, markdown
from ifguide.report.gather import gather
from ifguide.report.rows import compare_rows
from ifguide.workspace import read_manifest

TEXTS = ["a fine day", "what a rude fool he is", "naïve 🤖 text", "The clerk says that"]
RTP = [
    {"filename": f"{n}.txt", "begin": n, "end": n + 9, "prompt": {"text": text, "toxicity": n / 4},
     "continuation": {"text": f" {text}", "toxicity": 1 - n / 4}} for n, text in enumerate(TEXTS)
]  # fmt: skip
RECORDS: dict[str, list[dict[str, Any]]] = {  # reader → records of a good file
    "documents": [{"text": text, "spans": [[0, 2]], "kind": "x"} for text in TEXTS],
    "rationales": [{"post_tokens": text.split(), "annotators": {"label": [1, 0, 2]},
                    "rationales": [[1] * len(text.split())]} for text in TEXTS],
    "queries": [{"prompt": text, "continuation": " and so on", "label": n % 2}
                for n, text in enumerate(TEXTS)],
    "RealToxicityPrompts queries": RTP,
    "RealToxicityPrompts prompts": RTP,
    "prompts": [{"prompt": text, "domain": "d"} for text in TEXTS],
    "BOLD": [{"domain": "d", "name": f"n{n}", "category": "c", "prompts": [text]} for n, text in enumerate(TEXTS)],
    "ToxiGen": [{"prompt": text, "group": "g", "prompt_label": 1, "domain": "d"} for text in TEXTS],
    "pairs": [{"prompt": text, "chosen": " good", "rejected": " bad"} for text in TEXTS],
    "labelled": [{"text": text, "label": n / 4} for n, text in enumerate(TEXTS)],
    "scores of texts": [{"text": text, "s": {"TOXICITY": n / 4}} for n, text in enumerate(TEXTS)],
    "fine-tuning records": [{"prompt": text, "response": " a fool", "type": ["Unsafe", "Benign"][n % 2]}
                            for n, text in enumerate(TEXTS)],
    "fine-tuning references": [{"prompt": text, "response": " a fool"} for text in TEXTS],
    "passages": [{"text": text} for text in TEXTS],
}  # fmt: skip


class NoRecords(FineTuningSource):
    """Training records, where only references are read."""

    def records(self) -> list[Any]:
        return []


NO_RECORDS = NoRecords()
READERS: dict[str, Callable[[str], Any]] = {
    "documents": lambda file: list(LocalSource(files=file, spans="spans", where={"kind": ["x"]})),
    "rationales": lambda file: list(RationaleSource(files=file)),
    "queries": lambda file: local_queries(files=file),
    "RealToxicityPrompts queries": lambda file: real_toxicity_queries(files=file),
    "RealToxicityPrompts prompts": lambda file: real_toxicity_prompts(files=file),
    "prompts": lambda file: local_prompts(files=file, subset="domain"),
    "BOLD": lambda file: bold_prompts(files=file),
    "ToxiGen": lambda file: toxigen_prompts(files=file, subset="domain"),
    "pairs": lambda file: local_pairs(files=file),
    "labelled": lambda file: list(LabelledSource(files=file)),
    "scores of texts": lambda file: TextScores(files=file, categories={"toxicity": "s.TOXICITY"}).read(),
    "fine-tuning records": lambda file: list(FineTuningSource(files=file)),
    "fine-tuning references": lambda file: reference_queries(files=file, against=NO_RECORDS),
    "passages": lambda file: Lambada(files=file),
}
PLAIN: dict[str, tuple[bytes, str, Callable[[str], Any]]] = {  # what is no list of records → content, name, reader
    "word list": ("fool\nrude fool\n🤖\n".encode(), "words.txt", read_words),
    "table of words": (b'word,weight\nfool,1\n"rude, fool",2\n', "words.csv", lambda file: read_words(file, "word")),
    "texts": ("\n\n".join(TEXTS).encode(), "texts.txt", lambda file: list(LocalSource(files=file, separator=r"\n\n"))),
    "manifest": (
        json.dumps({"stage": "s", "fingerprint": "f", "inputs": {"data": "f"}, "facts": {}, "seconds": 1.0,
                    "files": {"a": {"size": 1, "sha256": ""}}}).encode(),
        "manifest.json", lambda file: read_manifest(Path(file).parent),
    ),
}  # fmt: skip
ARRAYS: dict[str, tuple[str, Callable[[Path], Any]]] = {  # file of arrays → its name, reader
    "scores": ("scores.npy", lambda path: open_scores(path.parent)),
    "mask": ("mask.npy", lambda path: TokenMask.open(path, 16)[:]),
    "losses of documents": ("losses.npz", lambda path: UnitLosses.open(path.parent)),
    "samples": ("samples.npz", load_samples),
    "inserted tokens": ("tags.npz", Insertion.open),
}
FOLDERS: dict[str, Callable[[Path], Any]] = {  # folder of several files → reader
    "run": lambda folder: tables(folder),
    "tokenizer": lambda folder: make_tokenizer((), path=str(folder)),
    "model": lambda folder: open_model(folder),
}
OTHER_KINDS = ["csv", "tsv", "json", "jsonl.zst", "txt", "txt.xz"]
HOSTILE = [
    b"\x00", b'"', b"{", b"}" * 3, b"[" * 3000, b"\\ud800", b"\\u0000", b"\xef\xbb\xbf", b"\xff\xfe", b"NaN",
    b"-Infinity", b"1e999", b"9" * 5000, b"null", b"true", b"\n", b"\r", b"\t", b",", b":", b"\xe2\x80\xa8", b"=1+1",
    b"../..", b'""',
]  # fmt: skip
VALUES: list[Any] = [
    None, True, -1, 0, 2**70, 1e308, float("nan"), float("inf"), "", " ", "\ud800", "x" * 5000, "\n", "=cmd", [], [[]],
    {}, [None], {"text": None}, [[1, 0]], [[0, 10**9]], "1", "TRUE",
]  # fmt: skip


def mutated(content: bytes, rng: Random) -> bytes:
    """A few bytes changed, taken out, repeated, or put in."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice([0, 1, 1, 4, 30]))
        how = rng.randrange(5)
        if how == 0 and start < len(data):
            data[start] = rng.randrange(256)
        elif how == 1:
            del data[start:end]
        elif how == 2:
            data[start:start] = data[start:end]
        elif how == 3:
            data[start:end] = rng.choice(HOSTILE)
        else:
            del data[max(start, len(data) // 3) :]
    return bytes(data)


def changed(value: Any, rng: Random) -> Any:
    """One value within a JSON value replaced or left out."""
    if isinstance(value, dict | list) and value and rng.random() < 0.8:
        copy = value.copy()
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if rng.random() < 0.2:
            del copy[key]
        else:
            copy[key] = changed(value[key], rng)
        return copy
    return rng.choice(VALUES)


def packed(records: list[Any], rng: Random, kind: str) -> bytes:
    """Records as a file of a kind, before its bytes are mutated."""
    if kind == "parquet":
        table = pa.Table.from_pylist(records)
        pyarrow.parquet.write_table(table, buffer := io.BytesIO())
        return buffer.getvalue()
    lines = "\n".join(json.dumps(one, ensure_ascii=rng.random() < 0.5) for one in records)
    return lines.encode("utf-8", "surrogatepass")


def pressed(content: bytes, file: str, rng: Random) -> tuple[bytes, str]:
    """A file compressed as its name says, and then perhaps mutated; some claim it and are not."""
    if file.endswith((".gz", ".xz")) and rng.random() < 0.95:
        content = gzip.compress(content, 1) if file.endswith(".gz") else lzma.compress(content, preset=0)
        content = mutated(content, rng) if rng.random() < 0.3 else content
    return content, file


def case(number: int, seed: int, folder: Path, goods: Path) -> tuple[str, str]:
    """Reader and outcome of a case; whatever is neither a value nor a ValueError of one line is raised."""
    rng = Random(f"{seed}:{number}")
    name = rng.choice([*READERS, *PLAIN, *ARRAYS, *FOLDERS])
    if name in READERS:
        kind = rng.choice(["jsonl", "jsonl", "jsonl.gz", "jsonl.xz", "parquet", "parquet", rng.choice(OTHER_KINDS)])
        records: list[Any] = RECORDS[name]
        if rng.random() < 0.6 and kind != "parquet":
            records = changed(records, rng)
            records = records if isinstance(records, list) else [records]
        content, file, read = packed(records, rng, kind), f"f.{kind}", READERS[name]
        content = mutated(content, rng) if rng.random() < 0.6 else content
        content, file = pressed(content, file, rng)
    elif name in PLAIN:
        content, file, read = PLAIN[name]
        whole = name == "manifest" and rng.random() < 0.5
        content = json.dumps(changed(json.loads(content), rng)).encode() if whole else mutated(content, rng)
        if file.endswith((".txt", ".csv")):
            content, file = pressed(content, file + rng.choice(["", "", ".gz", ".xz"]), rng)
    elif name in FOLDERS:
        good = goods / name
        file = rng.choice(sorted(str(path.relative_to(good)) for path in good.rglob("*") if path.is_file()))
        content = (good / file).read_bytes()
        if file.endswith(".json") and rng.random() < 0.6:
            content = json.dumps(changed(json.loads(content), rng)).encode()
        else:
            content = mutated(content, rng)
        shutil.copytree(good, folder / name)
        file, read = f"{name}/{file}", lambda _: FOLDERS[name](folder / name)
    else:
        file, open_file = ARRAYS[name]
        content = mutated((goods / file).read_bytes(), rng)
        read = lambda path: open_file(Path(path))  # noqa: E731
    (folder / file).write_bytes(content)
    try:
        read(str(folder / file))
    except ValueError as error:
        if len(str(error).splitlines()) > 1:
            raise AssertionError(f"more than a line: {error}") from error
        return name, "ValueError"
    return name, "value"


def tables(run: Path) -> None:
    """A report's tables, and what its pages show of training documents."""
    runs = gather([str(run)])
    comparison = compare_rows(runs, reference=None)
    for form in (markdown, latex, comma_separated):
        form(comparison)
    runs[0].token_pages()


def open_model(folder: Path) -> None:
    settings = ModelSettings(pretrained=str(folder))
    settings.check("model")
    settings.build(vocabulary=8, end_of_text=0)


def good_files(folder: Path) -> None:
    """A run, a tokenizer and a model, and files of arrays beside them."""
    run = folder / "run"
    (run / ".hydra").mkdir(parents=True)
    values = {"toxic_fraction": 0.1, "toxic_fraction_interval": [0.0, 0.2], "prompts": 4}
    perplexity = {"benign": {"perplexity": 9.0, "perplexity_interval": [8.0, 10.0]}}
    facts = {"name": "none", "stage": "evaluate", "seed": 1, "notes": ["n"], "artifacts": {"perplexity": str(folder)},
             "generations": {"toxicity": "generations.toxicity"}, "behaviours": ["toxicity"],
             "judged": {"toxicity": {"task": "toxicity", "classifier": "toxicity"}},
             "labels": {"toxicity": {"behaviour": "toxicity", "positive": "toxic", "negative": "fine"}}}  # fmt: skip
    files = {
        "metrics.json": json.dumps({"toxicity": {"all": values}, "perplexity": perplexity}),
        "run.json": json.dumps(facts),
        "tokens-toxicity.json": json.dumps({"documents": [{"tokens": ["a"], "scores": [0.5]}]}),
        ".hydra/config.yaml": "seed: 1\nstage: evaluate\npaths: {workspace: w}\n",
        ".hydra/overrides.yaml": "- method=none\n- seed=1\n",
        ".hydra/hydra.yaml": "hydra: {runtime: {choices: {method: none}, cwd: /x}}\n",
    }  # fmt: skip
    for name, content in files.items():
        (run / name).write_text(content)
    tokenizer = train_byte_level_bpe(TEXTS, 260)
    tokenizer.save_pretrained(folder / "tokenizer")
    config = AutoConfig.for_model("gpt2", vocab_size=8, n_embd=4, n_layer=1, n_head=1, n_positions=16)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model", max_shard_size="1KB")
    np.save(folder / "scores.npy", np.zeros((1, 4, 16), np.float32))
    np.save(folder / "mask.npy", np.zeros((4, 2), np.uint8))
    numbers = np.arange(3)
    UnitLosses(numbers + 1.0, numbers + 1.0, numbers, numbers, numbers * 0).save(folder)
    Insertion(numbers, numbers.astype(np.int32)).save(folder / "tags.npz")
    save_samples(folder / "samples.npz", [[1, 2], [3]], np.zeros((2, 2, 3), np.int64))


def outcomes(count: int, seed: int, first: int = 0) -> dict[str, dict[str, int]]:
    """Reader → outcome → number of cases.

    Raises:
        AssertionError: a case ended otherwise; says which, and where its file is.
    """
    logging.disable(logging.WARNING)
    counts: Counter[tuple[str, str]] = Counter()
    place = Path(tempfile.mkdtemp())
    good_files(place)
    for number in range(first, first + count):
        folder = place / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            counts[case(number, seed, folder, place)] += 1
        except BaseException as error:  # a library's panic is no Exception
            raise AssertionError(f"case {number} of seed {seed}, in {folder}: {error!r}") from error
    shutil.rmtree(place)
    logging.disable(logging.NOTSET)
    return {name: {"value": counts[name, "value"], "ValueError": counts[name, "ValueError"]}
            for name in sorted({name for name, _ in counts})}  # fmt: skip


if __name__ == "__main__":
    count, seed, first = map(int, [*sys.argv[1:], *["5000", "0", "0"][len(sys.argv) - 1 :]])
    found = {"cases": count, "seed": seed, "first": first, "readers": outcomes(count, seed, first)}
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))
