"""The documentation is true: links lead somewhere, settings compose, the example runs, the site needs no network."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from composing import composed
from datasets import Dataset, load_from_disk
from transformers import AutoConfig, AutoModelForCausalLM

import ifguide
from ifguide.corpus.masks import TokenMask
from ifguide.corpus.tokenizers import make_tokenizer
from ifguide.methods.rad.model import RewardModel
from ifguide.training.masked import MaskedLoss, decode_labels

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
    "student.floors": "student=words",
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
    if "+experiment=tune" in given:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    overrides = [value for value in given if not value.startswith(("-", "hydra"))]
    overrides = [re.sub(r"=interval\((.*?),.*", r"=\1", value) for value in overrides]
    overrides = [value if set("[{") & set(value) else value.split(",")[0] for value in overrides]
    context = {IN_CONTEXT[key] for key in IN_CONTEXT for value in overrides if value.startswith(key)}
    overrides = [*(c for c in sorted(context) if c not in overrides), *overrides]
    of_the_guides = [path.stem for path in options_of_the_guides.glob("*/*.yaml")]
    if any(value.split("=")[-1] in of_the_guides for value in overrides):
        overrides.append(f"hydra.searchpath=[file://{options_of_the_guides}]")
    composed(*overrides)


RESULTS = sorted((ROOT / "experiments").rglob("*.md"))


@pytest.mark.parametrize("page", [*PAGES, WRITTEN[2], *RESULTS], ids=lambda page: str(page.relative_to(ROOT)))
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


def test_every_artifact_and_every_published_data_set_is_described():
    stages = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "ifguide" / "stages").glob("*.py"))
    named = re.findall(r'^    name: ClassVar\[str\] = "(\w+)"', stages, re.MULTILINE)
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "artifacts.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(named) > 30 and not {f"`{name}`" for name in named} - {name for row in rows for name in row.split(", ")}
    conf = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "conf").rglob("*.yaml"))
    read = set(re.findall(r"\$\{paths\.datasets\}/([\w./-]+)", conf))
    inputs = (ROOT / "docs" / "inputs.md").read_text(encoding="utf-8")
    assert read and not [
        path for path in read if f"`{path}`" not in inputs and f"`{path.split('/')[0]}/`" not in inputs
    ]


PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = {  # page → what its code needs beside this package
    "README.md": [""],
    "docs/howto/library.md": [""],
    "docs/howto/elsewhere.md": ["", "trl", ""],
}


def examples(page):
    return PYTHON.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A folder with one's own model, corpus, and an export of them."""
    folder = tmp_path_factory.mktemp("mine")
    texts = [f"The clerk {n} was in a hurry. My draft is a rude fool." for n in range(40)]
    (folder / "my").mkdir()
    (folder / "my" / "corpus.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    tokenizer = make_tokenizer(texts, vocabulary=300)
    shape = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=512)
    special = dict(bos_token_id=None, eos_token_id=tokenizer.eos_token_id)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **shape, **special))
    model.save_pretrained(folder / "my" / "model")
    tokenizer.save_pretrained(folder / "my" / "model")
    blocks = ifguide.make_blocks(Dataset.from_dict({"text": texts}), tokenizer, block_length=16)
    mask = TokenMask.pack(np.random.default_rng(0).random(blocks.shape) < 0.2)
    scores = {"toxicity": np.zeros(blocks.shape, np.float32)}
    ifguide.export(folder / "my" / "export", blocks, mask, scores, tokenizer, unit="document")
    return folder


@pytest.mark.parametrize("page, index", [(page, n) for page, needs in EXAMPLES.items() for n in range(len(needs))])
def test_the_examples_run_as_they_stand(page, index, mine, monkeypatch, tmp_path):
    """With a random tiny Llama in the place of one's own model."""
    code = examples(page)
    assert len(code) == len(EXAMPLES[page])
    if EXAMPLES[page][index]:
        pytest.importorskip(EXAMPLES[page][index], reason=f"the example needs {EXAMPLES[page][index]}")
    shutil.copytree(mine, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    masked, call = [], MaskedLoss.__call__

    def watched(self, outputs, labels, **options):
        masked.append(int(decode_labels(labels)[1].sum()))
        return call(self, outputs, labels, **options)

    monkeypatch.setattr(MaskedLoss, "__call__", watched)
    names = {}
    exec(code[index], names)
    if "mask" in names:
        assert names["mask"].shape == names["blocks"].shape and 0 < names["mask"].count()
        return
    start = AutoModelForCausalLM.from_pretrained("my/model").state_dict()
    trained = AutoModelForCausalLM.from_pretrained("my/trained").state_dict()
    assert all(torch.isfinite(value).all() for value in trained.values())
    assert any(not torch.equal(value, start[name]) for name, value in trained.items())
    assert len(masked) == 5 and sum(masked) == sum(sum(row[1:]) for row in load_from_disk("my/export/dataset")["mask"])


def test_the_example_of_a_steered_row_runs(tmp_path, monkeypatch):
    """With a tiny model and an untrained reward model in the places of a run's artifacts."""
    (example,) = examples("docs/howto/model.md")
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
