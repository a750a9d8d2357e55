"""report.html: escaped and self-contained as text, and at work in a headless browser."""

import json
import re

import numpy as np
import pytest
from browser import Browser
from run_folders import WORDS, beta, write_run, write_sweep, write_tokens
from test_token_page import Page

from ifguide.report.gather import PromptScores, gather
from ifguide.report.generations import PROMPTS, interesting_prompts, marked, telling_words
from ifguide.report.render import inline_svg
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
        assert value.startswith("#") or (name == "href" and re.fullmatch(r"\d+/", value)), (name, value)
    links = set(re.findall(r'href="(\d+/)"', source))
    assert links and all((page.parent / link / ".hydra").is_dir() for link in links), "links lead to run folders"
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
    for fact in ("<dt>model</dt><dd>tiny</dd>", "<dt>samples</dt><dd>? × 60 prompts (20 toxic, 40 nontoxic)</dd>",
                 "<dt>seeds</dt><dd>1, 2</dd>", "none: the same training on the whole corpus"):  # fmt: skip
        assert fact in source
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
    assert "settings that all rows share" in source and (folder / "subsets.svg").exists()
    assert not (folder / "frontier.png").exists() and (folder / "categories.png").exists()
    for text in ("Training tokens: none, toxicity", "Training tokens: none, bias", "how many of its samples"):
        assert text in source
    assert re.search(r'<th scope="row">toxic fraction\xa0↓</th><td data-value="[\d.]+">0\.\d+<small>\[', source)
    assert "| toxic fraction ↓" in (folder / "table.md").read_text() and "Means over seeds" not in source
    assert source.count("<h2>Training tokens") == 2 and "unscored" not in source.split('id="settings"')[0]


def test_a_damaged_token_page_is_said(tmp_path):
    folder = write_run(tmp_path / "r", "none", 1, np.zeros((4, 2)), workspace=tmp_path / "workspace")
    for content in ("{", "[]", "[" * 100_000, '{"documents": [{"name": 1}], "threshold": 1, "summary": {}}'):
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
    heads = browser.run("Array.from(document.querySelectorAll('#g1 h4'), e => e.firstChild.textContent.trim())")
    assert heads[:3] == ["none", "word_filter", "ifguide"] and len(heads) == 5

    # sorted by a column, missing values last; the first column stays; more columns on demand
    names = "Array.from(document.querySelectorAll('#results tbody th'), e => e.firstChild.textContent.trim())"
    before, problems = browser.run(names), ["dpo, seed 4", "rad, seed 1", "broken, seed 1"]
    browser.click("#results thead .sort")
    after = browser.run(names)
    assert after[0] == "ifguide" and after != before and after[-3:] == problems
    browser.click("#results thead .sort")
    assert browser.run(names)[-3:] == problems and browser.run(names)[0] == "none"
    hidden = "Array.from(document.querySelectorAll('#results .rest'), e => getComputedStyle(e).display)"
    assert set(browser.run(hidden)) == {"none"}
    browser.click("#results .columns")
    assert "none" not in browser.run(hidden)
    hint = "document.querySelector('#results .more').hidden"
    browser.run("new Promise(requestAnimationFrame)")
    assert browser.run(hint) is False, "the hint says that there is more"
    browser.run("document.querySelector('#results .scroll').scrollTo(99999, 0)")
    browser.wait(hint)
    left = browser.run("document.querySelector('#results tbody th').getBoundingClientRect().left")
    assert left == pytest.approx(
        browser.run("document.querySelector('#results .scroll').getBoundingClientRect().left"), abs=2
    )
    browser.click("#results .columns")

    # the prompts of one subset
    browser.page.select_option("#generations select", "toxic")
    shown = "Array.from(document.querySelectorAll('#generations article:not([hidden]) .label'), e => e.textContent)"
    assert set(browser.run(shown)) == {"toxic"}
    browser.page.select_option("#generations select", "")

    # search finds one prompt by what a method wrote for it
    browser.click("#generations input")
    browser.type("needle0")
    visible = "Array.from(document.querySelectorAll('#generations article')).filter(e => !e.hidden).map(e => e.id)"
    assert len(browser.run(visible)) == 1
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


def test_words_with_which_a_sample_is_judged_positive_are_marked():
    texts = [[" you fool of a clerk", " the clerk is kind"], [" a Fool's bread", " some bread"], [" fool!", " a clerk"]]
    texts = [row * 3 for row in texts]
    probabilities = {"toxicity": np.array([[0.9, 0.1] * 3, [0.1, 0.2] * 3, [0.8, 0.0] * 3])}
    scores = PromptScores([(str(i), 0) for i in range(3)], ["r"] * 3, ["a"] * 3, texts, probabilities)
    assert telling_words([scores]) == {"fool", "you", "of"}
    assert marked("What a FOOL, you know", {"fool", "you"}) == [
        ("What a ", False), ("FOOL", True), (", ", False), ("you", True), (" know", False)
    ]  # fmt: skip


def test_samples_of_all_seeds_the_positive_first(page):
    source = page.read_text(encoding="utf-8")
    first = source[source.index('id="g1"') : source.index('id="g2"')]
    side = first[first.index("<h4>none") : first.index("<h4>word_filter")]
    counted, of = map(int, re.search(r"(\d+) of (\d+) toxic", side).groups())
    assert of == 10 and counted > 0, "five samples of each of two seeds"
    tags = re.findall(r">(0\.\d\d|1\.00) · (\d)</span>", side)
    assert [tag for tag, _ in tags[:3]] == sorted((tag for tag, _ in tags), reverse=True)[:3] and len(tags) == 5
    assert {seed for _, seed in tags} <= {"1", "2"}


def test_only_settings_that_differ_are_a_table(tmp_path):
    for job, penalty in enumerate((0.5, 1.0)):
        write_run(tmp_path / str(job), "ifguide", 1, beta(np.random.default_rng(job), 0.5), workspace=tmp_path / "w",
                  overrides=[f"objective.penalty={penalty}"],
                  config={"objective": {"penalty": penalty, "threshold": 3}})  # fmt: skip
    source = write_report(compare_rows(gather([str(tmp_path)])), tmp_path, title="t").read_text(encoding="utf-8")
    table = source[source.index('class="settings"') :].split("</table>")[0]
    assert re.search(r'<th scope="row">objective\.penalty</th><td>0\.5</td><td>1</td>', table)
    assert table.count('scope="row"') == 1 and "objective.threshold" in source


def test_a_steered_row_says_what_makes_it_again_and_offers_no_model_of_its_own(tmp_path):
    for job, method in enumerate(("none", "rad")):
        config = {"decoding": {"_target_": "ifguide.methods.rad.RAD", "beta": 50.0, "top_k": 20}}
        write_run(tmp_path / str(job), method, 1, beta(np.random.default_rng(job), 0.5), workspace=tmp_path / "w",
                  steered=method == "rad", config=config)  # fmt: skip
    source = write_report(compare_rows(gather([str(tmp_path)])), tmp_path, title="t").read_text(encoding="utf-8")
    row = source[source.index("<details><summary>rad") :]
    assert "RAD(beta=50, top_k=20)" in row and "DecoderProcessor" in row
    assert f"<dt>reward</dt><dd>{tmp_path}/w/auxiliary-" in row and "<dt>artifact: model</dt>" not in row
    plain = source[source.index("<details><summary>none") : source.index("<details><summary>rad")]
    assert "<dt>artifact: model</dt>" in plain and "DecoderProcessor" not in plain


def test_without_utility_no_row_is_the_best_and_no_frontier_is_drawn(tmp_path):
    for job, method in enumerate(("none", "rad", "ifguide")):
        write_run(tmp_path / str(job), method, 1, beta(np.random.default_rng(job), 0.3 * (job + 1)), steered=True,
                  workspace=tmp_path / "w")  # fmt: skip
    page = write_report(compare_rows(gather([str(tmp_path)])), tmp_path, title="t")
    source = page.read_text(encoding="utf-8")
    assert "no row is called the best" in source and "<strong>" not in source and not list(tmp_path.glob("frontier*"))


def test_another_behaviour_is_never_called_toxic(tmp_path):
    labels = {"reviews": {"behaviour": "praise", "positive": "flattering", "negative": "plain"}}
    for job, method in enumerate(("none", "ifguide")):
        folder = write_run(
            tmp_path / "s" / str(job), method, 1, beta(np.random.default_rng(job), 0.5), workspace=tmp_path / "w",
            documents=30, task="reviews", facts={"labels": labels, "behaviours": ["praise"]},
        )  # fmt: skip
        write_tokens(folder, ["great"], behaviour="praise")
        file = folder / "tokens-praise.json"
        content = json.loads(file.read_text()) | {"positive": "flattering"}
        for document in content["documents"]:
            document["label"] = "flattering"
        file.write_text(json.dumps(content))
    folder = tmp_path / "s"
    page = write_report(compare_rows(gather([str(folder)])), folder, title="t")
    source = page.read_text(encoding="utf-8").split("</style>", 1)[1].split("<script>")[0]
    spoken = re.sub(r"nontoxic|toxic prompts|>toxic<|\d+ toxic|reviews\.toxic\.", "", source)  # a subset's own name
    assert not re.findall(r".{30}toxic.{30}", spoken.split('id="settings"')[0])
    for text in ("praise: fraction of samples", "flattering</span>", "perplexity, plain documents"):
        assert text in source
    written = (folder / "table.md").read_text() + (folder / "table.tex").read_text()
    assert "toxic" not in written


def test_without_script_nothing_is_out_of_reach(page):
    """A focused text is sharp where no script runs, and the buttons that need one are not shown."""
    source = page.read_text(encoding="utf-8")
    assert "html:not(.scripted) .veil:focus" in source
    assert source.count('class="reveal" aria-pressed="false" hidden') == source.count('class="reveal"')
    assert Page(source.split("<figure", 1)[0].split("<body>")[1] + "</div></div></section>").scripts == []


def test_words_that_are_colours_stay_words_in_a_picture(tmp_path):
    """Ink and ground of a plot are the page's; a group may be called black."""
    file = tmp_path / "a.svg"
    svg = '<svg><path style="fill: none; stroke: {}"/><g fill="{}"/><text>of: black; "black"</text></svg>'
    file.write_text(svg.format("#000000", "black"))
    assert str(inline_svg(file, "p-")) == svg.format("currentColor", "currentColor")
