"""report.html: escaped and self-contained as text, and at work in a headless browser."""

import json
import re

import numpy as np
import pytest
from browser import Browser
from run_folders import WORDS, beta, write_run, write_sweep, write_tokens
from test_token_page import Page

from ifguide.report.gather import gather
from ifguide.report.page import PROMPTS, interesting_prompts
from ifguide.report.rows import compare_rows
from ifguide.report.write import write_report

ATTACK = "</script><script>document.title='owned'</script><img src=http://evil.invalid/x onerror=alert(1)>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def page(folder):
    """The report of a sweep in which everything that is text is hostile."""
    sweep = write_sweep(folder, seeds=(1, 2))
    values = beta(np.random.default_rng(9), 0.4)
    texts = [[f" {WORDS[0]} {ATTACK} needle{i}" for _ in range(values.shape[1])] for i in range(len(values))]
    run = write_run(
        sweep / "50", f"rival {ATTACK}", 1, values, workspace=folder / "workspace", texts=texts,
        categories={ATTACK: values}, overrides=[f"note={ATTACK}"],
    )  # fmt: skip
    write_tokens(run, [ATTACK, "haystack"])
    write_run(sweep / "51", "broken", 1, workspace=folder / "workspace", failure=f"message {ATTACK}")
    return write_report(compare_rows(gather([str(sweep)])), sweep, title=f"report {ATTACK}")


def test_everything_is_written(page):
    for name in ("table.md", "table.tex", "table.csv", "frontier.png", "frontier.svg", "categories.png",
                 "categories.svg"):  # fmt: skip
        assert (page.parent / name).stat().st_size > 0


def test_hostile_text_stays_text_and_nothing_is_fetched(page):
    source = page.read_text(encoding="utf-8")
    assert source.count("<script") == 1 and "<img" not in source
    for name, value in re.findall(r'\b(src|href|srcset|action|xlink:href)="([^"]*)"', source):
        assert value.startswith("#"), (name, value)
    assert not re.search(r"url\((?!#)|@import", source)
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", source)
    assert not re.search(r'="https?:', without_namespaces)
    ids = re.findall(r'\bid="([^"]*)"', source)
    doubled = {name for name in ids if ids.count(name) > 1}
    assert not doubled


def test_it_says_what_there_is(page):
    source = page.read_text(encoding="utf-8")
    for text in ("failed: the training loss is nan at step 40", "unfinished", "one seed", "Settings", "word_filter"):
        assert text in source
    for anchor in re.findall(r'<a href="#([^"]+)"', source):
        assert f'id="{anchor}"' in source


def test_a_report_without_anything_measured(tmp_path):
    write_run(tmp_path / "r", "none", 1, workspace=tmp_path, failure="no")
    page = write_report(compare_rows(gather([str(tmp_path / "r")])), tmp_path, title="t")
    assert "failed: no" in page.read_text() and not (tmp_path / "frontier.png").exists()


def test_one_run_is_a_report_of_one_row(tmp_path):
    """No reference, no frontier of one point; a line per metric, its generations and the tokens of its behaviours."""
    values = beta(np.random.default_rng(0), 0.4, prompts=6)
    folder = write_run(
        tmp_path / "r", "none", 1, values, workspace=tmp_path / "workspace", categories={"insult": values}
    )
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(facts | {"behaviours": ["toxicity", "bias", "unscored"]}))
    write_tokens(folder, ["rotten"])
    write_tokens(folder, ["unfair"], behaviour="bias")
    comparison = compare_rows(gather([str(folder)]))
    source = write_report(comparison, folder, title="one").read_text(encoding="utf-8")
    assert comparison.reference is None and "compared with" not in source and "1 row measured." in source
    assert not (folder / "frontier.png").exists() and (folder / "categories.png").exists()
    for text in ("Training tokens: none, toxicity", "Training tokens: none, bias", "samples of the model"):
        assert text in source
    assert re.search(r'<th scope="row">toxic fraction\xa0↓</th><td>0\.\d+<small>\[', source)
    assert "| toxic fraction ↓" in (folder / "table.md").read_text() and "Means over seeds" not in source
    assert source.count("<h2>Training tokens") == 2 and "unscored" not in source.split('id="settings"')[0]


def test_a_damaged_token_page_is_said(tmp_path):
    folder = write_run(tmp_path / "r", "none", 1, np.zeros((4, 2)), workspace=tmp_path / "workspace")
    for content in ("{", "[]", '{"documents": [{"name": 1}], "threshold": 1, "summary": {}}'):
        (folder / "tokens-toxicity.json").write_text(content)
        page = write_report(compare_rows(gather([str(folder)])), folder, title="t")
        assert "a damaged token page: " in page.read_text()


def test_the_prompts_shown_are_half_regular_half_the_most_toxic(page):
    run = next(run for run in gather([str(page.parent)]) if run.method == "none")
    scores = run.prompt_scores("toxicity")
    chosen = interesting_prompts(scores)
    assert len(chosen) == len(set(chosen)) == PROMPTS and chosen == sorted(chosen)
    assert int(np.argmax(scores.probabilities["toxicity"].mean(1))) in chosen


@pytest.fixture(params=["light wide", "dark narrow"])
def browser(request, page):
    scheme, width = request.param.split()
    with Browser(width=1280 if width == "wide" else 390, dark=scheme == "dark") as browser:
        browser.open(page)
        yield browser
        assert browser.problems == []
        assert browser.requests == [page.as_uri()]


def blurred(browser, selector):
    return browser.run(f"getComputedStyle(document.querySelector('{selector}')).filter") != "none"


@pytest.mark.browser
def test_in_a_browser(browser):
    assert browser.run("document.title").startswith("report </script>")
    assert browser.run("document.querySelectorAll('.problem').length") == 3
    assert browser.run("document.querySelectorAll('figure svg text').length") > 10
    assert browser.run("document.documentElement.scrollWidth") <= browser.run("innerWidth")  # nothing sticks out
    ink, ground = browser.run(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    dark = browser.run("matchMedia('(prefers-color-scheme: dark)').matches")
    brightness = [sum(map(float, re.findall(r"[\d.]+", colour)[:3])) for colour in (ink, ground)]
    assert (brightness[0] > brightness[1]) == dark
    assert browser.run("getComputedStyle(document.querySelector('figure svg text')).fill") == ink  # plots follow

    # generations: blurred until clicked, blurred again by the button, all at once by the bar's
    assert blurred(browser, "#g1 ol") and blurred(browser, "#g2 ol") and blurred(browser, "#g1 .prompt")
    assert not blurred(browser, "#g1 h4"), "whose text it is can be read"
    browser.click("#g1 .veil")
    assert not blurred(browser, "#g1 ol") and blurred(browser, "#g2 ol")
    browser.click("#g1 .reveal")
    assert blurred(browser, "#g1 ol")
    browser.click("#generations .bar button")
    assert not blurred(browser, "#g1 ol") and not blurred(browser, "#g2 ol")
    heads = browser.run("Array.from(document.querySelectorAll('#g1 h4'), e => e.textContent)")
    assert heads[:3] == ["none", "word_filter", "ifguide"] and len(heads) == 5

    # search finds one prompt by what a method wrote for it
    browser.click("#generations input")
    browser.type("needle0")
    visible = "Array.from(document.querySelectorAll('#generations article')).filter(e => !e.hidden).map(e => e.id)"
    assert browser.run(visible) == ["g1"]
    assert browser.run("document.querySelector('#generations [role=status]').textContent") == "1 of 40 prompts"
    browser.press("Escape")
    assert len(browser.run(visible)) == PROMPTS

    # from document to document of the token page, by link and by key
    assert blurred(browser, "#tokens-0-1 .text")
    browser.click("#tokens-0-1 nav a[rel=next]")
    assert browser.run("document.activeElement.id") == "tokens-0-2"
    browser.press("j")
    assert browser.run("document.activeElement.id") == "tokens-0-3"
    browser.press("k")
    browser.press("Enter")
    assert browser.run("document.activeElement.id") == "tokens-0-2"
    browser.press("/")
    browser.type("haystack")
    hidden = browser.run("document.querySelectorAll('#tokens-0 article[hidden]').length")
    assert hidden == 12  # the word is in the documents of the other mask only


def test_without_script_nothing_is_out_of_reach(page):
    """A focused text is sharp where no script runs, and the buttons that need one are not shown."""
    source = page.read_text(encoding="utf-8")
    assert "html:not(.scripted) .veil:focus" in source
    assert source.count('class="reveal" aria-pressed="false" hidden') == source.count('class="reveal"')
    assert Page(source.split("<figure", 1)[0].split("<body>")[1] + "</div></section>").scripts == []
