import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifguide.corpus.documents import Query
from ifguide.corpus.words import WordCounter, indicative_words, read_words, word_log_odds

LIST = ["bad", "Worse", "very bad", "@55", "!!", "no-good", "naïve", "bad_word"]


def slow_count(words, text):
    """Places where a whole word of the list stands: sign by sign from the left, the longest first."""
    found, place = 0, 0
    single = [word.lower() for word in words if re.fullmatch(r"\w+", word)]
    found += sum(re.fullmatch(re.escape(word), run) is not None for run in re.findall(r"\w+", text.lower())
                 for word in set(single))  # fmt: skip
    for signs in (False, True):
        other = [w for w in words if not re.fullmatch(r"\w+", w) and (re.search(r"\w", w) is None) == signs]
        place = 0
        while place < len(text):
            for word in sorted(other, key=len, reverse=True):
                match = re.compile(r"\s+".join(map(re.escape, word.split())), re.IGNORECASE).match(text, place)
                before = text[place - 1] if place else " "
                after = text[match.end()] if match and match.end() < len(text) else " "
                if match and (signs or not (re.match(r"\w", before) or re.match(r"\w", after))):
                    found, place = found + 1, match.end()
                    break
            else:
                place += 1
    return found


@pytest.mark.parametrize(
    "text, count",
    [
        ("A BAD day, badly spent: bad.", 2),
        ("very   bad", 2),  # the word, and the phrase around it
        ("isn't it bad's worse?", 2),
        ("@55 x@55 55 @555", 1),
        ("no-good no good", 1),
        ("NAÏVE bad_word badword", 2),
        ("what!! !!!", 2),
        ("", 0),
    ],
)
def test_whole_words_in_any_case(text, count):
    assert WordCounter(LIST)(text) == count == slow_count(LIST, text)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([*"ab !@5-_x", "bad", "very", "worse", "no", "good", "@55", "  "]), max_size=25))
def test_counting_against_a_slow_reference(pieces):
    assert WordCounter(LIST)("".join(pieces)) == slow_count(LIST, "".join(pieces))


def test_lists_from_files(tmp_path):
    (tmp_path / "a.txt").write_text("Bad\n\nvery bad\nbad\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("text,severity\nworse,2\nBAD,1\n", encoding="utf-8")
    assert read_words([str(tmp_path / "a.txt"), str(tmp_path / "b.csv")], "text") == ["bad", "very bad", "worse"]
    with pytest.raises(ValueError, match="has the columns text, severity"):
        read_words(str(tmp_path / "b.csv"), "word")
    (tmp_path / "c.txt").write_text("\n")
    with pytest.raises(ValueError, match="not one word"):
        read_words(str(tmp_path / "c.txt"))
    (tmp_path / "d.tsv").write_text("bad\tTRUE\n")
    with pytest.raises(ValueError, match=r"a \.txt file"):
        read_words(str(tmp_path / "d.tsv"))


def test_lists_that_others_published(datasets_folder):
    folder = datasets_folder / "lexicons"
    words = read_words(str(folder / "ldnoobw_en.txt"))
    more = read_words(str(folder / "surge_profanity_en.csv"), "text")
    assert len(words) > 300 and len(more) > 1000
    assert WordCounter(words + more)("nothing to see in the garden") == 0 < WordCounter(words)("a bastardly bastard")


def test_indicative_words():
    queries = [Query("", " you idiot you", True, f"t{i}") for i in range(10)]
    queries += [Query("", " you friend you", False, f"n{i}") for i in range(10)]
    odds = word_log_odds(queries)
    assert odds["you"] == pytest.approx(0) and odds["idiot"] == pytest.approx(math.log(11)) == -odds["friend"]
    assert indicative_words(queries, 2.0) == ["idiot"]
    with pytest.raises(ValueError, match=r"log_odds=3.*highest log-odds are 2\.40"):
        indicative_words(queries, 3)
