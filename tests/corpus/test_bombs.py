"""Small files that would fill the memory: each ends in one line, within a bound."""

import gzip
import io
import lzma
import os
import resource
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from ifguide.corpus import records
from ifguide.corpus.labelled import LabelledSource
from ifguide.corpus.sources import LocalSource
from ifguide.corpus.words import read_words
from ifguide.report.gather import read_run
from ifguide.workspace.files import open_archive, open_array

MIB = 1 << 20
ROOM = 768 * MIB  # beside what the process has


def said(read):
    """What a reader says in the end, in a process that may take little more memory than this one."""
    inlet, outlet = os.pipe()
    child = os.fork()
    if child == 0:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM,) * 2)
        try:
            for _ in read():
                pass
            line = "a value"
        except BaseException as error:
            line = str(error) if type(error) is ValueError else f"{type(error).__name__} {error}"
        os.write(outlet, line.encode()[:4000])
        os._exit(0)
    os.close(outlet)
    with os.fdopen(inlet) as lines:
        line = lines.read()
    assert os.waitpid(child, 0)[1] == 0, "killed"
    assert line and "\n" not in line
    return line


def repeated(path, piece, streams):
    """A file of so many equal compressed streams, each of a MiB of a piece."""
    packed = (gzip.compress if path.suffix == ".gz" else lzma.compress)(piece * (MIB // len(piece)))
    path.write_bytes(packed * streams)
    assert path.stat().st_size < MIB * streams / 200
    return str(path)


@pytest.mark.parametrize("name, rule", [("a.jsonl.gz", "1: a line of more"), ("a.txt.xz", " its ")])
def test_a_text_that_never_ends(tmp_path, name, rule):
    file = repeated(tmp_path / name, b" ", 2048)  # 2 GiB
    assert said(lambda: LocalSource(files=file)).startswith(f"files={file}:{rule}")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.xz"])
def test_records_without_an_end(tmp_path, monkeypatch, name):
    monkeypatch.setattr(records, "EXPANDED", MIB)
    monkeypatch.setattr(records, "MOST_EXPANDED", 1)
    file = repeated(tmp_path / name, b'{"text": "a", "label": 1}\n', 8)
    line = said(lambda: LabelledSource(files=file))
    assert line.startswith(f"files={file}: its ") and line.endswith("if they should, give it unpacked")


@pytest.mark.parametrize("name, column", [("a.txt.xz", None), ("a.csv.gz", "word")])
def test_a_list_of_words_without_an_end(tmp_path, monkeypatch, name, column):
    monkeypatch.setattr(records, "EXPANDED", MIB)
    monkeypatch.setattr(records, "MOST_EXPANDED", 1)
    file = repeated(tmp_path / name, b"word\nfool\n", 8)
    assert said(lambda: read_words(file, column)).startswith(f"files={file}: its ")


def test_a_line_of_a_billion_characters(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "')
    os.truncate(path, 10**9)  # takes no room on the disk
    assert said(lambda: LocalSource(files=str(path))) == f"files={path}:1: a line of more than 64 million characters"


@pytest.mark.parametrize("line", [b"[" * 10**6, b'{"a":' * 10**6, b'{"text": ' + b"9" * 10**6 + b"}"])
def test_json_that_is_nested_or_long(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(line)
    assert said(lambda: LocalSource(files=str(path))).startswith(f"files={path}:1: not JSON")


def test_parquet_whose_rows_share_a_long_text(tmp_path):
    """50 MiB and 4000 rows of it: 200 GiB, in a few KiB."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), pa.array(["x" * 50 * MIB]))
    for nested in (False, True):
        values = pa.ListArray.from_arrays(pa.array([0, 4000], pa.int32()), texts) if nested else texts
        pa.parquet.write_table(
            pa.table({"text": values}), tmp_path / "a.parquet", compression="zstd", write_statistics=False,
            store_schema=False, dictionary_pagesize_limit=1 << 30,
        )  # fmt: skip
        read = partial(LocalSource, files=str(tmp_path / "a.parquet"), limit=3)
        assert (tmp_path / "a.parquet").stat().st_size < 5000
        rule = f"files={tmp_path}/a.parquet: a row of more than 64 million bytes"
        assert said(read) == (rule if nested else "a value")


def test_parquet_that_claims_more_rows_than_it_has(tmp_path):
    path, rows = tmp_path / "a.parquet", 12345
    pa.parquet.write_table(pa.table({"text": ["a"] * rows}), path)

    def varint(number):
        number, found = number * 2, []  # as Thrift writes it
        while number > 127:
            found.append(number & 127 | 128)
            number >>= 7
        return bytes([*found, number])

    content = path.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    footer = content[start:-8].replace(varint(rows), varint(1 << 40))
    path.write_bytes(content[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    assert pa.parquet.read_metadata(path).num_rows == 1 << 40
    assert said(lambda: LocalSource(files=str(path))).startswith((f"files={path}: ", "a value"))


def test_parquet_of_pages_that_expand(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "EXPANDED", MIB)
    pa.parquet.write_table(pa.table({"text": ["x" * 2 * MIB]}), tmp_path / "a.parquet", compression="zstd")
    line = said(lambda: LocalSource(files=str(tmp_path / "a.parquet")))
    assert line.startswith(f"files={tmp_path}/a.parquet: its ") and "become more than 1,048,576" in line


def header(shape):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return content.getvalue() + bytes(64)


@pytest.mark.parametrize("shape", [(1 << 31,), (1 << 40, 1 << 10), (1 << 62, 1 << 62), (10**30,)])
def test_arrays_that_claim_a_large_shape(tmp_path, shape):
    (tmp_path / "a.npy").write_bytes(header(shape))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", header(shape))
    for name, read in (("a.npy", open_array), ("a.npz", open_archive)):
        assert said(lambda name=name, read=read: read(tmp_path / name)).startswith(f"{tmp_path}/{name} is no whole .np")


def test_an_archive_that_expands(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(MIB))
    line = said(lambda: open_archive(tmp_path / "a.npz"))
    assert line == f"{tmp_path}/a.npz is no whole .npz file (it is compressed, or does not hold what it says)"


def test_a_configuration_of_aliases_of_aliases(tmp_path):
    (tmp_path / ".hydra").mkdir()
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))]
    (tmp_path / ".hydra" / "config.yaml").write_text("\n".join(lines))
    assert "a damaged file in its folder: .hydra/config.yaml (an alias" in (read_run(tmp_path).problem or "")
    (tmp_path / ".hydra" / "config.yaml").write_text("[" * 2000)
    assert "config.yaml (maximum recursion depth" in (read_run(tmp_path).problem or "")
