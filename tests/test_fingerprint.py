"""How settings describe themselves: content decides, not where a file lies nor how fast a thing is computed."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pytest

from ifguide.workspace import describe, fingerprint_of


@dataclass(frozen=True)
class Reader:
    NOT_SETTINGS: ClassVar = ("batch_size",)
    LEFT_OUT_AT_DEFAULT: ClassVar = ("where",)

    files: str
    where: tuple[str, ...] = ()
    batch_size: int = 3


class Plain:
    def __init__(self, rate, *, parts=()):
        self.rate, self.parts = rate, parts


class Forgetful:
    def __init__(self, rate):
        self._rate = rate


def test_an_object_is_its_class_and_its_arguments():
    assert describe(Plain(0.1, parts=[Plain(1)])) == {
        "class": "Plain", "rate": 0.1, "parts": [{"class": "Plain", "rate": 1, "parts": []}],
    }  # fmt: skip
    assert describe(partial(Plain, 3)) == {"call": "Plain", "rate": 3}
    with pytest.raises(TypeError, match="Forgetful does not keep its argument `rate`"):
        describe(Forgetful(1))


def test_a_file_is_what_it_holds_and_how_it_is_read(tmp_path):
    for name, content in (("a.txt", "x"), ("b.txt", "x"), ("c.txt", "y"), ("d.jsonl", "x"), ("e.v2.txt", "x")):
        (tmp_path / name).write_text(content)
    a, b, c, d, e = (describe(Reader(f"{tmp_path}/{name}")) for name in ("a.txt", "b.txt", "c.txt", "d.jsonl", "e*"))
    assert a == b == e and a != c and a != d
    assert len({fingerprint_of(one) for one in (a, b, c, d, e)}) == 3


def test_what_decides_nothing_and_what_came_later_is_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    plain = describe(Reader(f"{tmp_path}/a.txt"))
    assert set(plain) == {"class", "files"} and describe(Reader(f"{tmp_path}/a.txt", batch_size=9)) == plain
    assert describe(Reader(f"{tmp_path}/a.txt", where=("x",)))["where"] == ["x"]


def test_a_file_that_exists_is_that_file_whatever_signs_are_in_its_name(tmp_path):
    for name in ("a[1].txt", "a1.txt", "b*?,=.txt"):
        (tmp_path / name).write_text(name)
    found = {name: describe(Reader(f"{tmp_path}/{name}")) for name in ("a[1].txt", "a1.txt", "b*?,=.txt")}
    assert len({fingerprint_of(one) for one in found.values()}) == 3
    with pytest.raises(ValueError, match="no file matches"):
        describe(Reader(f"{tmp_path}/c[1].txt"))
