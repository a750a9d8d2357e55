"""The page of architectures is what the code gives."""

import importlib.util
import re
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("architectures", Path(__file__).parents[1] / "docs" / "architectures.py")
PAGE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(PAGE)
QUICK = ["gpt2", "opt", "bloom", "mamba", "qwen2_moe", "recurrent_gemma", "openai-gpt", "bert"]


def rows(text):
    """Architecture → its rows, with refusals in words and without the digits of errors."""
    notes = dict(re.findall(r"^(\d+)\. (.*)$", text, re.MULTILINE))
    found = {}
    for line in re.findall(r"^\| `.*$", text, re.MULTILINE):
        line = re.sub(r"\[(\d+)\]", lambda number: notes[number[1]], line)
        found.setdefault(line.split("`")[1], []).append(re.sub(r"(exact|close) \(\d+e[-+]\d+\)", "works", line))
    return found


def test_the_page_has_every_architecture_and_no_error_that_is_large():
    text = PAGE.PAGE.read_text(encoding="utf-8")
    assert list(rows(text)) == list(PAGE.ARCHITECTURES)
    errors = {kind: [float(error) for error in re.findall(rf"{kind} \((\S+)\)", text)] for kind in ("exact", "close")}
    assert len(errors["exact"]) > 100 and max(errors["exact"]) <= 1e-3 and max(errors["close"]) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("architecture", QUICK)
def test_the_page_is_what_the_code_gives(architecture):
    assert rows(PAGE.table([architecture]))[architecture] == rows(PAGE.PAGE.read_text(encoding="utf-8"))[architecture]
