import base64
import hashlib
import json
import os
import re
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest

from ifguide.corpus.masks import TokenMask
from ifguide.corpus.tokenizers import token_texts
from ifguide.report.token_page import (
    PageDocument,
    shade_scale,
    strongest,
    whole_characters,
    write_token_page,
    write_token_pages,
)

STATIC = resources.files("ifguide.report") / "static"
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=http://evil/x onerror=alert(1)>",
    '"onmouseover=alert(1) x="',
    "'onmouseover='",
    "&amp;",
    "</span></div></article>",
    "<!--",
    "$title ${summary}",
    "\x00\x07",
    "\ud800",
    "\u202e",
    "",
]


class Page(HTMLParser):
    """Collects what a browser would see: scripts, event handlers, links, the token spans of every document."""

    def __init__(self, source: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self.attributes, self.documents, self.policy = [], [], [], [], ""
        self.open: list[str] = []
        self.in_text = False
        self.text = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.attributes.extend(attrs)
        if tag == "meta" and "http-equiv" in attributes:
            self.policy = attributes["content"]
        if tag not in ("meta", "input"):
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")
        if attributes.get("class") == "text":
            self.in_text = True
            self.documents.append([])
        elif self.in_text and tag == "span":
            self.documents[-1].append({**attributes, "content": ""})

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "div":
            self.in_text = False

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.in_text:
            assert self.open[-1] == "span", f"text outside any token: {data!r}"
            self.documents[-1][-1]["content"] += data
        else:
            self.text += data


def document(tokens, *, rank=1, name="sample #1", scores=None, **options) -> PageDocument:
    scores = [0.5 * (-1) ** i * i for i in range(len(tokens))] if scores is None else scores
    options.setdefault("selected", [score > 0 for score in scores])
    return PageDocument(name=name, rank=rank, tokens=tokens, scores=scores, **options)


def render(tmp_path, *documents, title="A title", summary=None) -> Page:
    path = tmp_path / "page.html"
    write_token_page(path, documents, title=title, threshold=1.25, summary=summary or {})
    return Page(path.read_text(encoding="utf-8"))


def classes(span) -> set[str]:
    return set(span["class"].split())


def test_text_survives_and_every_token_is_one_span(tmp_path):
    tokens = ["The", " quick", "\n\n", "\tbrown", "  ", " 🦊", "é", " 漢字", "\ufffd", "\n"]
    page = render(tmp_path, document(tokens))
    (spans,) = page.documents
    assert [span["content"] for span in spans] == tokens


def test_shade_outline_and_underline_say_score_selection_and_annotation(tmp_path):
    page = render(
        tmp_path,
        document(
            ["up", " down", " zero", "\n"],
            scores=[2.0, -1.0, 0.0, 2.0],
            selected=[True, False, False, True],
            annotated=[True, False, True, False],
        ),
    )
    up, down, zero, newline = page.documents[0]
    assert classes(up) == {"t", "p", "s", "b", "e", "a"}
    assert classes(down) == {"t", "n"}
    assert classes(zero) == {"t", "a"} and "style" not in zero
    assert classes(newline) == {"t", "p", "s", "b", "e", "l"}
    assert float(up["style"].removeprefix("--a:")) == 1.0
    assert float(down["style"].removeprefix("--a:")) == pytest.approx(0.5, abs=0.01)
    assert up["title"] == "+2 up (selected) (annotated toxic)"
    assert down["title"] == "-1 ␣down"
    assert newline["title"] == "+2 ↵ (selected)"
    assert "2 of 4 tokens selected" in page.text


def test_a_run_of_selected_tokens_has_one_outline(tmp_path):
    flags = [False, True, True, True, False, True]
    page = render(tmp_path, document(["a", "b", "c", "d", "e", "f"], selected=flags))
    marks = [classes(span) & {"s", "b", "e"} for span in page.documents[0]]
    assert marks == [set(), {"s", "b"}, {"s"}, {"s", "e"}, set(), {"s", "b", "e"}]


def test_a_behaviour_that_is_not_toxicity_is_spoken_of_in_its_own_words(corpus, tmp_path):
    split = corpus.split("train")
    scores = np.random.default_rng(0).standard_normal((1, *split.shape)).astype(np.float32)
    mask = TokenMask.pack(scores[0] > 1)
    facts = {"selected": mask.count(), "behaviours": {"praise": {"threshold": 1.0}}}
    labels = {"reviews": {"behaviour": "praise", "positive": "flattering", "negative": "plain"}}
    (page,) = write_token_pages(corpus, ["praise"], scores, mask, facts, tmp_path, labels)
    text = page.read_text(encoding="utf-8")
    assert "toxic" not in text.replace((STATIC / "page.css").read_text(), "").lower()
    assert "Tokens that teach praise" in text and "annotated as flattering" in text
    found = json.loads((tmp_path / "tokens-praise.json").read_text())["documents"]
    assert {document["label"] for document in found} == {"flattering", "plain"}


def test_hostile_text_is_text_everywhere(tmp_path):
    attack = "".join(HOSTILE)
    hostile = document(HOSTILE, name=attack, label=attack)
    page = render(tmp_path, hostile, title=attack, summary={attack: attack})
    assert page.tags.count("script") == 1 and page.tags.count("img") == 0
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert len(page.documents[0]) == len(HOSTILE)
    assert [span["content"] for span in page.documents[0]][:8] == HOSTILE[:8]
    assert page.text.count("<script>alert(1)</script>") == 6  # title twice, key, value, name, label
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", source)


def test_the_only_script_is_the_pages_own_and_the_policy_admits_no_other(tmp_path):
    page = render(tmp_path, document(HOSTILE))
    assert page.scripts == [(STATIC / "page.js").read_text(encoding="utf-8")]
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.policy
    assert "default-src 'none'" in page.policy


def test_nothing_is_fetched(tmp_path):
    page = render(tmp_path, document(["a"]), document(["b"], rank=2), document(["c"], rank=3))
    links = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert links and all(re.fullmatch(r"#\w+", link) for link in links)
    assert not {"link", "img", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(r"url\(|@import", (tmp_path / "page.html").read_text(encoding="utf-8"))


def test_links_lead_to_documents_and_the_highest_rank_comes_first(tmp_path):
    page = render(tmp_path, *(document([f"rank {rank}"], rank=rank) for rank in (3, 1, 2)))
    assert [spans[0]["content"] for spans in page.documents] == ["rank 1", "rank 2", "rank 3"]
    targets = {value for name, value in page.attributes if name == "id"}
    links = [value for name, value in page.attributes if name == "href"]
    assert sorted(links) == ["#d1", "#d2", "#d2", "#d3", "#top"]
    assert {link[1:] for link in links} <= targets


def test_the_page_explains_itself(tmp_path):
    page = render(tmp_path, document(["a"]), summary={"tokens selected": "5 of 100"})
    for text in ("A title", "5 of 100", "τ = 1.25", "offensive", "flips the sign"):
        assert text in page.text
    annotated = '<li hidden><span class="key a">'
    assert annotated in (tmp_path / "page.html").read_text(encoding="utf-8")
    render(tmp_path, document(["a"], annotated=[True]))
    assert annotated not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_no_documents(tmp_path):
    page = render(tmp_path)
    assert page.documents == [] and "No documents to show" in page.text


def test_tokens_that_hold_parts_of_one_character_are_shown_as_one():
    # "a", three tokens of an emoji of which the last also holds "b", nothing, "cd"
    offsets = np.array([[0, 1], [1, 2], [1, 2], [1, 3], [3, 3], [3, 5]])
    texts, first = whole_characters("a\N{GRINNING FACE}bcd", offsets)
    assert texts == ["a", "\N{GRINNING FACE}b", "", "cd"] and first.tolist() == [0, 1, 4, 5]
    scores = np.array([1.0, 2.0, -3.0, 0.5, -1.0, 4.0], np.float32)
    assert strongest(scores, first).tolist() == [1.0, -3.0, -1.0, 4.0]


def test_a_page_for_every_behaviour(corpus, tmp_path):
    """Against the definition: the documents with the highest sums of selected scores, each in whole."""
    split, behaviours = corpus.split("train"), ("toxicity", "bias")
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((2, *split.shape)).astype(np.float32)
    selected = rng.random(split.shape) < 0.2
    mask = TokenMask.pack(selected)
    facts = {
        "selected": mask.count(),
        "behaviours": {name: {"threshold": 0.5 + k} for k, name in enumerate(behaviours)},
    }
    pages = write_token_pages(corpus, behaviours, scores, mask, facts, tmp_path)
    assert [page.name for page in pages] == ["tokens-toxicity.html", "tokens-bias.html"]
    assert sorted(os.listdir(tmp_path)) == sorted(
        f"{name}-{behaviour}.{suffix}" for behaviour in behaviours
        for name, suffix in (("tokens", "html"), ("tokens", "json"), ("token_scores", "png"))
    )  # fmt: skip
    owner = split.documents_of(np.arange(selected.size))
    texts = token_texts(corpus.tokenizer)
    for k, behaviour in enumerate(behaviours):
        written = json.loads((tmp_path / f"tokens-{behaviour}.json").read_text())
        assert written["threshold"] == 0.5 + k
        assert written["summary"]["selected for any of"] == "toxicity, bias"
        flat, chosen, tokens = (x.reshape(-1) for x in (scores[k], selected, split.tokens(slice(0, len(split)))))
        sums = {d: flat[(owner == d) & chosen].astype(float).sum() for d in range(len(split.documents))}
        totals = {d: flat[owner == d].astype(float).sum() for d in range(len(split.documents))}
        ranked = {"highest": sorted(sums, key=lambda d: -sums[d])[:60], "lowest": sorted(totals, key=totals.get)[:20]}
        found = {group: [d for d in written["documents"] if d["group"] == group] for group in (*ranked, "random")}
        assert len(found["random"]) == 20 == len({document["name"] for document in found["random"]})
        pairs = [pair for group in ranked for pair in zip(found[group], ranked[group], strict=True)]
        for document, index in pairs:
            here = (owner == index) & (tokens != corpus.end_of_text)
            row = split.documents[index]
            assert document["name"] == f"tiny, record {row['record']}"
            assert document["scores"] == pytest.approx(flat[here].tolist())
            assert document["selected"] == chosen[here].tolist()
            assert document["tokens"] == [texts[token] for token in tokens[here]]
            assert len(document["annotated"]) == here.sum()
        page = Page((tmp_path / f"tokens-{behaviour}.html").read_text(encoding="utf-8"))
        assert len(page.documents) == len(written["documents"]) and f"behaviour {behaviour}" in page.text
        assert f"Tokens that teach {behaviour}" in page.text and "<|endoftext|>" not in page.text
    (page,) = write_token_pages(corpus, ["bias"], scores[1:], mask, facts, tmp_path)
    assert "selected for any of" not in page.read_text(encoding="utf-8")


def test_scale_ignores_a_lone_outlier_but_not_a_sparse_page():
    usual = document(["x"] * 500, scores=[1.0, -1.0] * 249 + [1.0, 1000.0])
    assert shade_scale([usual]) == 1.0
    sparse = document(["x"] * 500, scores=[0.0] * 499 + [-3.0])
    assert shade_scale([sparse]) == 3.0
    assert shade_scale([document(["x"], scores=[0.0])]) == 1.0


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"scores": [1.0], "selected": [True, False]}, "1 scores for 2 tokens"),
        ({"scores": [1.0, 2.0], "selected": [True]}, "1 selected for 2 tokens"),
        ({"scores": [1.0, 2.0], "annotated": []}, "0 annotated for 2 tokens"),
        ({"scores": [1.0, float("nan")]}, "not finite"),
    ],
)
def test_mistakes_are_named(tmp_path, broken, message):
    with pytest.raises(ValueError, match=message):
        render(tmp_path, document(["a", "b"], **broken))
    assert not list(tmp_path.iterdir())


def test_same_input_same_bytes_and_no_debris(tmp_path):
    for name in ("a.html", "b.html"):
        write_token_page(tmp_path / name, [document(HOSTILE)], title="t", threshold=0.5, summary={"a": "b"})
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.html", "b.html"]


def test_a_hundred_documents_stay_small(tmp_path):
    documents = [document([" token"] * 256, rank=rank, annotated=[True] * 256) for rank in range(1, 101)]
    page = render(tmp_path, *documents)
    assert sum(map(len, page.documents)) == 25_600
    assert (tmp_path / "page.html").stat().st_size < 5_000_000


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_is_readable_on_the_deepest_shade(scheme):
    template = (STATIC / "page.css").read_text(encoding="utf-8")
    block = re.findall(r":root \{(.*?)\}", template, flags=re.DOTALL)[scheme]
    values = dict(re.findall(r"--([\w-]+): ([^;]+);", block))

    def rgb(value):
        if value.startswith("#"):
            return [int(value[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return [int(part) / 255 for part in value.split(",")]

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ink, card, depth = rgb(values["ink"]), rgb(values["card"]), float(values["depth"])
    for shade in ("red", "blue"):
        under = [depth * s + (1 - depth) * c for s, c in zip(rgb(values[shade]), card, strict=True)]
        bright, dim = sorted([luminance(ink), luminance(under)], reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5  # WCAG AA
