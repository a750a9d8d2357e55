"""The documentation is true: links lead somewhere, settings compose, the example runs, the site needs no network."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from transformers import AutoConfig, AutoModelForCausalLM

from ifguide.corpus.tokenizers import make_tokenizer
from ifguide.methods.rad.model import RewardModel

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
WRITTEN = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*WRITTEN[:2], *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name != "reference.md")]
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
SETTING = re.compile(r"[~+]*[a-z_]+(?:[@/.][a-z_]+)*=")
IN_CONTEXT = {  # settings that exist beside an option only
    "callbacks.influence.": "callbacks=influence",
    "data.sources.local.": "data=local",
    "filter.column": "filter=words",
    "filter.files": "filter=words",
    "judge.": "judge=quality",
    "labelled.files": "labelled=local",
    "logger.": "logger=wandb",
    "pairs.files": "pairs=local",
    "pairs.prompt": "pairs=local",
    "student.share": "student=words",
}


def overrides_in(page):
    """What a page gives to `run.py`: its commands, and what it names between backticks."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^(?:pip install .* && )?python run\.py(.*)$", text, re.MULTILINE)
    named = [re.sub(r"^python run\.py ", "", code) for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)]
    named = [code for code in named if SETTING.match(code)]
    return [shlex.split(command, comments=True) for command in (*commands, *named) if not set("…<") & set(command)]


GIVEN = {" ".join(given): given for page in PAGES for given in overrides_in(page)}


OPTION_FILE = re.compile(r"^```yaml\n# conf/(\S+\.yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def options_of_the_guides(tmp_path_factory):
    """The folder of every `conf/<group>/<option>.yaml` that a page tells its reader to write."""
    folder = tmp_path_factory.mktemp("conf")
    for page in PAGES:
        for path, content in OPTION_FILE.findall(page.read_text(encoding="utf-8")):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(content, encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_every_setting_composes(given, options_of_the_guides):
    overrides = [value for value in given if not value.startswith(("-", "hydra"))]
    overrides = [re.sub(r"=interval\((.*?),.*", r"=\1", value) for value in overrides]
    overrides = [value if set("[{") & set(value) else value.split(",")[0] for value in overrides]
    context = {IN_CONTEXT[key] for key in IN_CONTEXT for value in overrides if value.startswith(key)}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [*(c for c in sorted(context) if c not in overrides), *overrides]
        compose("config", overrides=[*overrides, f"hydra.searchpath=[file://{options_of_the_guides}]"])


@pytest.mark.parametrize("page", [*PAGES, WRITTEN[2]], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        found = page.parent / target if target else page
        assert found.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\s-]", "", h).strip().lower().replace(" ", "-") for h in headings}, anchor


def test_the_reference_is_that_of_the_configuration():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.reference(), "run: python docs/reference.py"


def test_the_example_as_a_library_runs(tmp_path, monkeypatch):
    """With a tiny model in the place of one's own."""
    page = (ROOT / "docs" / "howto" / "corpus.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    tokenizer = make_tokenizer(["The clerk is a rude fool."], vocabulary=300)
    shape = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=512)
    AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_neox", **shape)).save_pretrained(tmp_path / "my/model")
    tokenizer.save_pretrained(tmp_path / "my/model")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example, names)
    assert names["mask"].shape == names["scores"].shape and 0 < names["mask"].mean() <= 0.1


def test_the_example_of_a_steered_row_runs(tmp_path, monkeypatch):
    """With a tiny model and an untrained reward model in the places of a run's artifacts."""
    page = (ROOT / "docs" / "howto" / "model.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    tokenizer = make_tokenizer(["The clerk is a rude fool."], vocabulary=300)
    shape = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=512)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_neox", **shape))
    model.save_pretrained(tmp_path / "workspace/model")
    RewardModel(model.base_model).save_pretrained(tmp_path / "workspace/auxiliary")
    for folder in ("model", "auxiliary"):
        tokenizer.save_pretrained(tmp_path / "workspace" / folder)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example, names)
    assert names["written"].shape[0] == 1 and names["written"].shape[1] > names["prompts"]["input_ids"].shape[1]


@pytest.mark.slow
def test_the_site_builds_and_asks_the_network_for_nothing(tmp_path):
    pytest.importorskip("material")
    subprocess.run([sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(tmp_path)], cwd=ROOT, check=True)
    loaded = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//")
    for page in tmp_path.rglob("*.html"):
        assert not loaded.search(page.read_text(encoding="utf-8")), page
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)[\"' ]*(?:https?:)?//", style.read_text(encoding="utf-8")), style
