"""The command line, as a user types it: every command of the README, two processes, and mistakes."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from run_folders import write_sweep
from safetensors.numpy import load_file
from wandb_files import OfflineRun

from ifguide.corpus.tokenizers import make_tokenizer
from ifguide.models import ModelSettings

pytest.importorskip("profanity_check")
TINY = ["+debug=smoke"]
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(?:pip install .* && )?(python run\.py.*)$", README.replace("\\\n", " "), re.MULTILINE)


def run(folder, *arguments, check=True, **environment_too):
    environment = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "WORLD_SIZE")}
    result = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *arguments], cwd=folder, capture_output=True, text=True,
        env=environment | {"WANDB_MODE": "offline"} | environment_too, timeout=600,
    )  # fmt: skip
    assert not check or result.returncode == 0, result.stderr[-3000:]
    return result


def write_own_data(folder):
    """What the README's examples for one's own corpus and behaviour read."""
    texts = [f"document {i}: " + "the garden is green and the tap drips " * 8 for i in range(150)]
    (folder / "my").mkdir()
    (folder / "my" / "corpus.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    queries = [
        {"prompt": f"review {i}", "continuation": " what a garden", "label": ["flattering", "plain"][i % 2]}
        for i in range(8)
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
        "trainer.progress=false",
    ],
}  # fmt: skip


def shrink(arguments):
    """Small settings for a command, where its groups have them."""
    chosen = {argument.lstrip("+~").split("=")[0].split("@")[0] for argument in arguments}
    small = [value for group, values in SMALL.items() if group not in chosen for value in values]
    learns_words = any("word_filter" in argument for argument in arguments)  # from many queries
    return [*small, "behaviours.toxicity.size=1000"] if learns_words else small


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_runs(command, tmp_path):
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
    flags = ["-m"] if "-m" in arguments else []
    given = [argument for argument in arguments if argument != "-m"]
    run(tmp_path, *flags, *([] if "+debug=smoke" in given else shrink(given)), *given)
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


def assert_report(folder, methods=("none", "ifguide"), seeds=("1", "2")):
    for name in ("report.html", "table.md", "table.tex", "table.csv", "frontier.png", "frontier.svg"):
        assert (folder / name).stat().st_size > 0
    with (folder / "table.csv").open() as table:
        rows = {row["method"]: row for row in csv.DictReader(table)}
    for method in methods:
        assert rows[method]["seeds"] == " ".join(seeds), method
        assert method == "none" or rows[method]["reference"] == "none"
        assert method == "none" or rows[method]["toxicity.all.toxic_fraction_difference_low"]


def test_a_sweep_with_a_job_that_fails_reports_it(tmp_path):
    """The failure of a job is a row, and the sweep's exit code."""
    result = run(tmp_path, "-m", "method=none,ifguide", "optim.learning_rate=1e-3,1e9", "seed=1", *TINY, check=False)
    assert result.returncode == 1
    (sweep,) = tmp_path.glob("multirun/*/*")
    with (sweep / "table.csv").open() as table:
        rows = {row["method"]: row for row in csv.DictReader(table)}
    good, bad = "optim.learning_rate=0.001", "optim.learning_rate=1000000000"
    assert set(rows) == {f"none, {good}", f"ifguide, {good}", f"none, {bad}, seed 1", f"ifguide, {bad}, seed 1"}
    assert rows[f"ifguide, {good}"]["reference"] == f"none, {good}"
    assert all(rows[f"{name}, {bad}, seed 1"]["problem"].startswith("failed: ") for name in ("none", "ifguide"))
    failed = [folder for folder in sweep.glob("[0-9]*") if (folder / "failure.json").is_file()]
    assert len(failed) == 2 and all((folder / "run.json").is_file() for folder in failed)
    source = (sweep / "report.html").read_text()
    assert "Training tokens: ifguide" in source and "Generations" in source


def test_a_single_run_ends_in_a_report_of_one_row_and_a_log(tmp_path):
    result = run(tmp_path, *TINY)
    (folder,) = tmp_path.glob("outputs/*/*")
    for name in ("report.html", "table.md", "table.csv", "metrics.json", "run.json"):
        assert (folder / name).stat().st_size > 0
    assert "ifguide ¹ |" in result.stdout and "ifguide ¹ |" in (folder / "run.log").read_text()


def test_a_plan_builds_nothing_and_says_what_would_be(tmp_path):
    plan = run(tmp_path, "stage=plan", "curvature.damping=0.1", *TINY).stdout
    assert "factors" in plan and "to build" in plan and "found" not in plan and "curvature.damping=0.1" in plan
    assert not (tmp_path / "workspace").exists()
    run(tmp_path, "stage=data", *TINY)
    assert "found" in run(tmp_path, "stage=plan", *TINY).stdout


def test_clean_lists_what_no_run_needs_and_removes_it_when_told_to(tmp_path):
    run(tmp_path, "stage=proxy", "hydra.run.dir=kept", *TINY)
    run(tmp_path, "stage=proxy", "hydra.run.dir=lost", "proxy.seed=4", *TINY)
    shutil.rmtree(tmp_path / "lost")
    command = ["stage=clean", "clean.runs=[kept]"]
    listed = run(tmp_path, *command).stdout
    models = {path.name for path in tmp_path.glob("workspace/model-*")}
    kept = Path(json.loads((tmp_path / "kept" / "run.json").read_text())["artifacts"]["proxy"]).name
    (lost,) = models - {kept}
    assert lost in listed and kept not in listed and "data-" not in listed
    assert (tmp_path / "workspace" / lost).is_dir()
    run(tmp_path, *command, "clean.confirm=true")
    assert {path.name for path in tmp_path.glob("workspace/model-*")} == {kept}
    result = run(tmp_path, "stage=clean", "clean.runs=[nowhere]", "clean.confirm=true", check=False)
    assert result.returncode == 1 and "clean.runs: no run in nowhere" in result.stderr


def losses(folder, key):
    (file,) = folder.glob(f"outputs/*/*/{key}/metrics.csv")
    with file.open() as rows:
        return [float(row["train/loss"]) for row in csv.DictReader(rows) if row.get("train/loss")]


def test_two_processes_train_as_one_through_two_stages(tmp_path):
    """Proxy and target are trained on two gloo processes, with the influence stages between them."""
    common = [*TINY, "stage=model", "trainer.precision=64-true", "trainer.log_every=1", "influence.batch_size=16"]
    for name, trainer in (("one", "cpu"), ("two", "ddp_cpu")):
        (tmp_path / name).mkdir()
        run(tmp_path / name, *common, f"trainer={trainer}")
    for key in ("proxy", "model"):
        one, two = losses(tmp_path / "one", key), losses(tmp_path / "two", key)
        assert len(one) == len(two) > 3
        assert np.allclose(one, two, rtol=0, atol=1e-6), key
    masks = [next((tmp_path / name).glob("workspace/mask-*/mask.npy")).read_bytes() for name in ("one", "two")]
    assert masks[0] == masks[1]
    assert len(list((tmp_path / "two").glob("workspace/model-*"))) == 2


def test_one_process_is_the_first_whatever_its_surroundings_say(tmp_path):
    """A rank that is left over, a notebook's backend, a terminal without arrows, a folder named from home."""
    surroundings = {
        "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "1", "SLURM_NTASKS": "2",
        "SLURM_JOB_NAME": "packed", "HOME": str(tmp_path), "MPLBACKEND": "module://no_such_module.inline",
        "PYTHONIOENCODING": "ascii",
    }  # fmt: skip
    run(tmp_path, *TINY, "paths.workspace='~/kept here'", "hydra.run.dir=run", **surroundings)
    assert len(list(tmp_path.glob("kept here/model-*/config.json"))) >= 1
    assert (tmp_path / "run" / "metrics.json").is_file() and (tmp_path / "run" / "report.html").is_file()
    assert list((tmp_path / "run").glob("model/metrics.csv")), "the log of what was trained"
    page = run(tmp_path, "stage=report", "report.runs=run", "hydra.run.dir=report", **surroundings).stdout
    assert "toxic fraction ?" in page and (tmp_path / "report" / "report.html").is_file()


def test_folders_may_be_named_anything(tmp_path):
    """Rows of a sweep that need processes of their own find their folder, and the sweep is reported on."""
    name = "a [b], c=(d) o'clock"
    escaped = name.replace("'", "\\'")
    sweep = f"hydra.sweep.dir='{escaped}'"
    run(tmp_path, "-m", *TINY, "trainer=ddp_cpu", "stage=data", "seed=0,1", sweep)
    assert {path.parent.name for path in tmp_path.glob("*/*/run.json")} == {"0", "1"}
    assert {path.parents[1].name for path in tmp_path.glob("*/*/run.json")} == {name}
    write_sweep(tmp_path / "made", seeds=(1,)).rename(tmp_path / f"{name} *?")
    assert "| ifguide " in run(tmp_path, "stage=report", f"report.runs='{escaped} *?'").stdout


def test_a_killed_run_continues_where_it_was(tmp_path):
    """kill −9 while the target trains: the next run reuses the rest and ends with the same weights."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    slow = [*TINY, "stage=model", "method=none", "optim.epochs=8", "trainer.checkpoint_every=2"]
    run(tmp_path / "whole", *slow)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *slow], cwd=tmp_path / "killed", stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    for _ in range(1200):
        if list((tmp_path / "killed").glob("workspace/.building/model-*/checkpoints/*.ckpt")):
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list((tmp_path / "killed").glob("workspace/model-*")), "killed too late to test anything"
    run(tmp_path / "killed", *slow)
    weights = [load_file(next((tmp_path / n).glob("workspace/model-*/model.safetensors"))) for n in ("whole", "killed")]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


@pytest.fixture(scope="module")
def before_scoring(tmp_path_factory):
    """A workspace that holds all that scoring needs."""
    folder = tmp_path_factory.mktemp("before_scoring")
    run(folder, *TINY, *SCORING, "stage=scores", "influence.shard_blocks=50")
    return folder


SCORING = ["scorer=finite_difference", "influence.batch_size=3"]


def scores_of(folder):
    return next(folder.glob("workspace/scores-*/scores.npy")).read_bytes()


def without_scores(before_scoring, folder):
    shutil.copytree(before_scoring / "workspace", folder / "workspace")
    shutil.rmtree(next(folder.glob("workspace/scores-*")))
    return folder


@pytest.mark.parametrize("scorer", ["jvp", "finite_difference"])
def test_two_processes_write_the_same_bytes(before_scoring, tmp_path, scorer):
    folders = [without_scores(before_scoring, tmp_path / name) for name in ("one", "two")]
    for folder, trainer in zip(folders, ("cpu", "ddp_cpu"), strict=True):
        options = [f"scorer={scorer}", f"trainer={trainer}", "influence.shard_blocks=7"]
        run(folder, *TINY, *SCORING, "stage=scores", *options)
    assert scores_of(folders[0]) == scores_of(folders[1])
    if scorer == "finite_difference":  # other shards, of which the last batches differ
        ours, theirs = (np.load(next(f.glob("workspace/scores-*/scores.npy"))) for f in (before_scoring, folders[0]))
        assert np.abs(ours - theirs).max() < 1e-3 * ours.std()


def test_kills_during_scoring_leave_no_trace(before_scoring, tmp_path):
    """kill −9 at three points: the store ends byte-identical, and no finished shard is scored again."""
    folder = without_scores(before_scoring, tmp_path / "killed")
    command = [*TINY, *SCORING, "stage=scores", "influence.shard_blocks=50"]
    shards = "workspace/.building/scores-*/shards_of_*/[0-9]*.npy"
    kept = {}
    for wanted in np.sort(np.random.default_rng().choice(range(1, 5), 3, replace=False)):
        process = subprocess.Popen(
            [sys.executable, "-c", SLOWLY, *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        for _ in range(2400):
            if len(list(folder.glob(shards))) >= wanted:
                break
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        found = {path: path.stat().st_mtime_ns for path in folder.glob(shards)}
        assert len(found) >= wanted and all(found[path] == kept[path] for path in kept)
        kept = found
    assert not list(folder.glob("workspace/scores-*")), "killed too late to test anything"
    run(folder, *command)
    assert scores_of(folder) == scores_of(before_scoring)


# run.py with a pause before each shard is written, so that it can be killed between any two
SLOWLY = """
import sys, time, runpy
from ifguide.influence.store import ScoreStore
write = ScoreStore.write
def slowly(self, *arguments):
    time.sleep(0.3)
    write(self, *arguments)
ScoreStore.write = slowly
sys.argv[0] = "run.py"
runpy.run_path(ROOT, run_name="__main__")
""".replace("ROOT", repr(str(ROOT / "run.py")))


@pytest.mark.parametrize(
    "override, message",
    [
        ("selection.limit=3", "selection.limit=3"),
        ("data=local", "Missing mandatory value: data.sources.local.files"),
        ("stage=nonsense", "known: data, proxy"),
        ("model.pretrained=./nowhere", "not a Hugging Face model folder"),
        ("trainer.precision=7", "precision"),
        ("decoding.top_p=high", "error: decoding: '<' not supported"),
        ("optim.epochs=two", "error: optim: '>=' not supported"),
        ("data.tokenizer.path=/nowhere", "data.tokenizer.path=/nowhere: no such file or folder"),
        ("model.pretrained=EleutherAI/x", "model.pretrained=EleutherAI/x cannot be loaded: "),
    ],
)
def test_a_mistake_ends_in_one_line_without_a_traceback(tmp_path, monkeypatch, override, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # a hub that cannot be reached is asked again and again
    small = TINY if "data=" not in override else []
    result = run(tmp_path, *small, override, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
