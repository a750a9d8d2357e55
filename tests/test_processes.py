"""Several processes, and processes that are killed."""

import csv
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import SMOKE, run, run_here, run_in_two_processes, start, wait_until
from composing import composed
from hydra.types import RunMode
from safetensors.numpy import load_file

from ifguide import signals
from ifguide.influence.store import ScoreStore

pytest.importorskip("profanity_check")
pytestmark = pytest.mark.slow


SWEEP = "a [b], c=(d) o'clock"  # folders may be named anything


def run_of(folder):
    """The folder of its only run."""
    (file,) = folder.glob("*/*/*/run.json")
    return file.parent


def losses(folder, key):
    file = run_of(folder) / key / "metrics.csv"
    with file.open() as rows:
        return [float(row["train/loss"]) for row in csv.DictReader(rows) if row.get("train/loss")]


WHOLE_WAY = [SMOKE, "trainer.log_every=1", "influence.batch_size=16", "curvature.blocks=32"]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_process")
    assert run_here(folder, *WHOLE_WAY, "trainer=cpu", "trainer.precision=64-true") == 0
    return folder


def bytes_of(folder, *names):
    found = []
    for name in names:
        (file,) = folder.glob(f"workspace/{name}")
        found.append(file.read_bytes())
    return found


def test_two_processes_are_one_the_whole_way(one_process, tmp_path):
    """All stages on two gloo processes: proxy, factors, direction, scores, target, generations, measurements.

    They are started by the row of a sweep that has a process, and a folder, of its own.
    """
    escaped = SWEEP.replace("'", "\\'")
    sweep = f"hydra.sweep.dir='out/{escaped}'"
    run(tmp_path, "-m", *WHOLE_WAY, "trainer=ddp_cpu", "trainer.precision=64-true", sweep)
    assert run_of(tmp_path) == tmp_path / "out" / SWEEP / "0"
    for key in ("proxy", "model"):
        one, two = losses(one_process, key), losses(tmp_path, key)
        assert len(one) == len(two) > 3
        assert np.allclose(one, two, rtol=0, atol=1e-6), key
    for name in ("mask-*/mask.npy", "generations-*/generations.arrow"):
        assert bytes_of(one_process, name) == bytes_of(tmp_path, name), name
    assert len(list(tmp_path.glob("workspace/model-*"))) == 2
    manifests = [next(folder.glob("workspace/factors-*/manifest.json")) for folder in (one_process, tmp_path)]
    ours, theirs = (json.loads(file.read_text())["facts"] for file in manifests)
    assert theirs["blocks"] == ours["blocks"] == 32
    assert theirs["validation_loss"] == pytest.approx(ours["validation_loss"], rel=1e-6)
    ours, theirs = (json.loads((run_of(f) / "metrics.json").read_text()) for f in (one_process, tmp_path))
    for task in ("toxicity", "perplexity"):
        assert theirs[task].keys() == ours[task].keys()
        for subset, metrics in ours[task].items():
            assert theirs[task][subset] == {name: pytest.approx(value, rel=1e-4) for name, value in metrics.items()}


def test_two_processes_that_share_weights_out_train_as_one(one_process, tmp_path):
    """Proxy and target, with the stages between them on whole copies; in float32, which FSDP computes in."""
    run_in_two_processes(tmp_path, *WHOLE_WAY, "stage=model", "trainer=fsdp_cpu")
    for key in ("proxy", "model"):
        one, two = losses(one_process, key), losses(tmp_path, key)
        assert len(one) == len(two) and np.allclose(one, two, rtol=1e-3 if key == "model" else 1e-5, atol=0), key
    for folder in tmp_path.glob("workspace/model-*"):
        weights = load_file(folder / "model.safetensors")
        assert weights.keys() == load_file(next(one_process.glob("workspace/model-*/model.safetensors"))).keys()
        assert json.loads((folder / "config.json").read_text())["architectures"] == ["GPTNeoXForCausalLM"]


def test_a_killed_run_continues_where_it_was(tmp_path):
    """kill −9 while the target trains: the next run reuses the rest and ends with the same weights."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    slow = [SMOKE, "stage=model", "method=none", "optim.epochs=5", "trainer.checkpoint_every=10"]
    assert run_here(tmp_path / "whole", *slow) == 0
    process = start(tmp_path / "killed", *slow)
    kept = "workspace/.building/model-*/checkpoints/*.ckpt"
    wait_until(lambda: list((tmp_path / "killed").glob(kept)))
    process.kill()
    process.join()
    assert not list((tmp_path / "killed").glob("workspace/model-*")), "killed too late to test anything"
    assert run_here(tmp_path / "killed", *slow) == 0
    weights = [load_file(next((tmp_path / n).glob("workspace/model-*/model.safetensors"))) for n in ("whole", "killed")]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_training_in_one_line(tmp_path, number, code):
    long = ["-m", SMOKE, "stage=model", "method=none", "optim.epochs=2000", "trainer.checkpoint_every=2"]
    process = start(tmp_path, *long, "hydra.sweep.dir=sweep", err=tmp_path / "err")
    wait_until(lambda: list(tmp_path.glob("workspace/.building/model-*/checkpoints/*.ckpt")))
    os.kill(process.pid, number)
    process.join(60)
    said = (tmp_path / "err").read_text()
    assert process.exitcode == code and "Traceback" not in said
    assert f"stopped by {number.name}: what is done is kept" in said
    assert not list(tmp_path.glob("workspace/model-*")) and list(tmp_path.glob("workspace/.building/model-*"))
    assert json.loads((tmp_path / "sweep" / "0" / "failure.json").read_text())["message"] == f"stopped by {number.name}"


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """The entry point, which prepares no run but raises what it is given; and the failure that it leaves."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    place = SimpleNamespace(runtime=SimpleNamespace(output_dir=str(tmp_path)), mode=RunMode.MULTIRUN)
    entry = importlib.import_module("run")
    monkeypatch.setattr(entry.HydraConfig, "get", lambda: place)

    def fail(error, of_another=None):
        def prepare(cfg):
            if of_another is not None:
                time.sleep(0.05)  # clocks of files are slower
                (tmp_path / "failure.json").write_text(json.dumps({"error": "ValueError", "message": of_another}))
            raise error

        monkeypatch.setattr(entry, "prepare", prepare)
        try:
            entry.main.__wrapped__(composed())
        finally:
            entry.failures.clear()
        return json.loads((tmp_path / "failure.json").read_text())

    return fail


def test_what_a_signal_breaks_off_may_raise_anything(tmp_path, monkeypatch, failing):
    monkeypatch.setattr(signals, "_received", [signal.SIGINT])
    with pytest.raises(KeyboardInterrupt):
        failing(RuntimeError("a callback was interrupted"))
    assert json.loads((tmp_path / "failure.json").read_text()) == {"error": "Stopped", "message": "stopped by SIGINT"}


def test_the_first_process_that_ends_says_why_and_the_next_attempt_anew(tmp_path, monkeypatch, failing):
    assert failing(ValueError("a mistake"))["message"] == "a mistake"
    time.sleep(0.05)
    (tmp_path / "metrics.json").write_text("{}")
    assert failing(ValueError("another"))["message"] == "another" and not (tmp_path / "metrics.json").exists()
    time.sleep(0.05)
    with pytest.raises(SystemExit):  # it ends because the first one did
        failing(SystemExit("the process of rank 0 has ended"), of_another="a third")
    assert json.loads((tmp_path / "failure.json").read_text())["message"] == "a third"
    time.sleep(0.05)
    with pytest.raises(SystemExit):
        failing(SystemExit("the process of rank 0 has ended"))
    said = json.loads((tmp_path / "failure.json").read_text())
    assert said == {"error": "Stopped", "message": "SystemExit: the process of rank 0 has ended"}


def test_a_signal_is_passed_on_to_the_process_of_a_row_and_a_job_goes_back_once(tmp_path):
    """The row ends by itself; what is sent to both counts once."""
    row = (
        "import pathlib, sys, time; from ifguide.signals import listening\n"
        "with listening():\n"
        "    pathlib.Path('started').touch()\n"
        "    try: time.sleep(60)\n"
        "    finally: time.sleep(0.5); pathlib.Path('ended').touch()"
    )
    sweep = (
        "import os, sys; from ifguide.signals import listening, run_through\n"
        f"with listening(): run_through([sys.executable, '-c', {row!r}], os.environ)"
    )
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "$@" >> asked\n')
    (tmp_path / "scontrol").chmod(0o755)
    environment = {**os.environ, "SLURM_JOB_ID": "17", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        [sys.executable, "-c", sweep], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    wait_until((tmp_path / "started").exists)
    os.killpg(process.pid, signal.SIGUSR1)  # as SLURM does, to all
    said = process.communicate(timeout=60)[1]
    assert said.count("stopped by SIGUSR1") == 2 and said.count("job 17 is in the queue again") == 1
    assert process.returncode == 128 + signal.SIGUSR1 and (tmp_path / "ended").exists()
    assert (tmp_path / "asked").read_text() == "requeue 17\n"


@pytest.mark.parametrize("beside", [1, 2])
def test_a_signal_to_an_experiment_ends_its_sweeps_too(tmp_path, beside):
    """Which would train on, and nobody would know; also those that threads wait for."""
    (tmp_path / "experiments" / "e").mkdir(parents=True)
    (tmp_path / "run.py").write_text(
        "import os, pathlib, time; from ifguide.signals import listening\n"
        "with listening():\n"
        "    pathlib.Path(f'started{os.getpid()}').touch()\n"
        "    try: time.sleep(60)\n"
        "    finally: pathlib.Path(f'ended{os.getpid()}').touch()"
    )
    script = tmp_path / "experiments" / "e" / "run.py"
    script.write_text(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from ifguide.report.experiment import publish\n"
        "def measure(experiment):\n"
        f"    if {beside} == 1: return experiment.sweep('rows', 'method=none')\n"
        "    with ThreadPoolExecutor() as pool:\n"
        f"        started = [pool.submit(experiment.sweep, str(n), 'method=none') for n in range({beside})]\n"
        "    return [one.result() for one in started]\n"
        "publish(__file__, measure)"
    )
    process = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(list(tmp_path.glob("started*"))) == beside)
    process.terminate()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM and said.count("stopped by SIGTERM") == 1 + beside
    assert len(list(tmp_path.glob("ended*"))) == beside and "Traceback" not in said


@pytest.fixture(scope="module")
def before_scoring(tmp_path_factory):
    """A workspace that holds all that scoring needs."""
    folder = tmp_path_factory.mktemp("before_scoring")
    assert run_here(folder, SMOKE, *SCORING, "stage=scores", "influence.shard_blocks=50") == 0
    return folder


SCORING = ["scorer=finite_difference", "influence.batch_size=3"]


def write_slowly():
    """A pause before each shard is written, so that a process can be killed between any two."""
    write = ScoreStore.write

    def slowly(self, *arguments):
        time.sleep(0.3)
        write(self, *arguments)

    ScoreStore.write = slowly


def scores_of(folder):
    return next(folder.glob("workspace/scores-*/scores.npy")).read_bytes()


def without_scores(before_scoring, folder):
    shutil.copytree(before_scoring / "workspace", folder / "workspace")
    shutil.rmtree(next(folder.glob("workspace/scores-*")))
    return folder


def test_two_processes_write_the_same_bytes(before_scoring, tmp_path):
    folders = [without_scores(before_scoring, tmp_path / name) for name in ("one", "two")]
    command = [SMOKE, *SCORING, "stage=scores", "influence.shard_blocks=7"]
    assert run_here(folders[0], *command) == 0
    run_in_two_processes(folders[1], *command, "trainer=ddp_cpu")
    assert scores_of(folders[0]) == scores_of(folders[1])
    # other shards, of which the last batches differ
    ours, theirs = (np.load(next(f.glob("workspace/scores-*/scores.npy"))) for f in (before_scoring, folders[0]))
    assert np.abs(ours - theirs).max() < 1e-3 * ours.std()


def test_a_signal_ends_scoring_and_what_is_scored_is_kept(before_scoring, tmp_path):
    folder = without_scores(before_scoring, tmp_path / "stopped")
    command = [SMOKE, *SCORING, "stage=scores", "influence.shard_blocks=50"]
    shards = "workspace/.building/scores-*/shards_of_*/[0-9]*.npy"
    process = start(folder, *command, before=write_slowly)
    wait_until(lambda: list(folder.glob(shards)))
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 143 and list(folder.glob(shards)) and not list(folder.glob("workspace/scores-*"))
    assert run_here(folder, *command) == 0
    assert scores_of(folder) == scores_of(before_scoring)


def test_kills_during_scoring_leave_no_trace(before_scoring, tmp_path):
    """kill −9 at three points: the store ends byte-identical, and no finished shard is scored again."""
    folder = without_scores(before_scoring, tmp_path / "killed")
    command = [SMOKE, *SCORING, "stage=scores", "influence.shard_blocks=50"]
    shards = "workspace/.building/scores-*/shards_of_*/[0-9]*.npy"
    kept = {}
    for wanted in np.sort(np.random.default_rng().choice(range(1, 5), 3, replace=False)):
        process = start(folder, *command, before=write_slowly)
        wait_until(lambda: len(list(folder.glob(shards))) >= wanted)  # noqa: B023
        process.kill()
        process.join()
        found = {path: path.stat().st_mtime_ns for path in folder.glob(shards)}
        assert len(found) >= wanted and all(found[path] == kept[path] for path in kept)
        kept = found
    assert not list(folder.glob("workspace/scores-*")), "killed too late to test anything"
    assert run_here(folder, *command) == 0
    assert scores_of(folder) == scores_of(before_scoring)
