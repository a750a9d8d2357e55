"""Every command of the README, as it stands there."""

import json
import re
import shlex
from pathlib import Path

import pytest
from command_line import ROOT, SMOKE, assert_report, run
from run_folders import write_sweep
from wandb_files import OfflineRun

from ifguide.corpus.tokenizers import make_tokenizer
from ifguide.models import ModelSettings

pytest.importorskip("profanity_check")
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(?:pip install .* && )?(python run\.py.*)$", README.replace("\\\n", " "), re.MULTILINE)


def write_own_data(folder):
    """What the README's examples for one's own corpus and behaviour read."""
    texts = [f"document {i}: " + "the garden is green and the tap drips " * 8 for i in range(150)]
    (folder / "my").mkdir()
    (folder / "my" / "corpus.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    queries = [
        {"prompt": f"review {i}", "continuation": f" {what} garden {i}", "label": label}
        for i in range(20)
        for what, label in (("what a", "flattering"), ("it is a", "plain"))
    ]
    (folder / "my" / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    passages = [{"text": f"the garden of letter {i} is green and the tap drips"} for i in range(4)]
    (folder / "my" / "passages.jsonl").write_text("\n".join(map(json.dumps, passages)))
    (folder / "my" / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": f"letter {i}"}) for i in range(3)))
    tokenizer = make_tokenizer(texts, vocabulary=400)
    settings = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = ModelSettings(architecture="gpt_neox", settings={**settings, "max_position_embeddings": 512})
    model.build(len(tokenizer), tokenizer.eos_token_id).save_pretrained(folder / "my" / "model")
    tokenizer.save_pretrained(folder / "my" / "model")


SMALL = {  # settings of the smoke configuration, by what may be chosen otherwise
    "data": ["data.sources.sample.size=150", "data.tokenizer.vocabulary=400", "data.block_length=32"],
    "queries": ["behaviours.toxicity.size=12"],
    "task": ["tasks.toxicity.prompts.size=6", "tasks.toxicity.samples=3", "tasks.toxicity.max_new_tokens=5"],
    "": [
        "labelled.size=80", "pairs.size=60", "curvature.blocks=8", "optim.epochs=0.5", "proxy_optim.epochs=0.5",
        *(f"{key}.settings.{name}" for key in ("model", "proxy")
          for name in ("hidden_size=16", "num_hidden_layers=2", "intermediate_size=32")),
        "influence.batch_size=100", "evaluation.batch_size=100", "trainer.progress=false",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Of all commands: what one has built, the next finds."""
    return tmp_path_factory.mktemp("workspace")


def shrink(arguments):
    """Small settings for a command, where its groups have them."""
    chosen = {argument.lstrip("+~").split("=")[0].split("@")[0] for argument in arguments}
    small = [value for group, values in SMALL.items() if group not in chosen for value in values]
    learns_words = any("word_filter" in argument for argument in arguments)  # from many queries
    return [*small, "behaviours.toxicity.size=1000"] if learns_words else small


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_runs(command, workspace, tmp_path):
    write_own_data(tmp_path)
    arguments = shlex.split(command, comments=True)[1:]
    assert arguments[0] == "run.py"
    arguments = arguments[1:]
    if {"--cfg", "--help", "stage=plan", "stage=clean"} & set(arguments):
        assert run(tmp_path, *arguments).stdout
        return
    if "stage=report" in arguments:
        sweep = tmp_path / next(a for a in arguments if a.startswith("report.runs=")).removeprefix("report.runs=")
        write_sweep(tmp_path, seeds=(1, 2)).rename(ready(sweep))
        assert "| ifguide " in run(tmp_path, *arguments).stdout
        assert_report(next(tmp_path.glob("outputs/*/*")))
        return
    if "logger=wandb" not in command:  # whose curves are of what it trains
        (tmp_path / "workspace").symlink_to(workspace)
    flags = ["-m"] if "-m" in arguments else []
    given = [argument for argument in arguments if argument != "-m"]
    run(tmp_path, *flags, *([] if SMOKE in given else shrink(given)), *given)
    methods, seeds = ["ifguide"], ["0"]
    for argument in arguments if "-m" in arguments else ():
        methods = argument[7:].split(",") if argument.startswith("method=") else methods
        seeds = argument[5:].split(",") if argument.startswith("seed=") else seeds
    if "-m" in arguments:
        assert_report(next(tmp_path.glob("multirun/*/*")), methods, seeds)
    if "logger=wandb" in arguments:
        (file,) = tmp_path.glob("outputs/*/*/wandb/offline-run-*/*.wandb")
        logged = OfflineRun(file)
        assert logged.curve("model/train/loss") and logged.curve("proxy/train/loss")
        assert logged.config["hydra"]["choices"]["method"] == "ifguide" and logged.exit_code == 0
        assert "metrics/toxicity/all/toxic_fraction" in logged.summary
    stage = next((argument[6:] for argument in arguments if argument.startswith("stage=")), "evaluate")
    runs = [*tmp_path.glob("outputs/*/*/run.json"), *tmp_path.glob("multirun/*/*/*/run.json")]
    assert len(runs) == len(methods) * len(seeds)
    for file in runs:
        written = json.loads(file.read_text())
        assert written["stage"] == stage and all(Path(path).is_dir() for path in written["artifacts"].values())
        assert (file.parent / "metrics.json").is_file() == (stage == "evaluate")


def ready(folder):
    folder.parent.mkdir(parents=True)
    return folder
