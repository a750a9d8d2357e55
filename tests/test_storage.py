"""What a disk, a file system and a signal do to a workspace and to a training, in this process."""

import errno
import fcntl
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from training.test_training import CPU, Interrupt, Recorder, model_for, run

from ifguide.influence.store import ScoreStore, create_scores, open_scores
from ifguide.signals import requeue
from ifguide.stages.streams import Lenient, check_folder
from ifguide.training.checkpoints import SaveWhenAsked, newest_checkpoint
from ifguide.workspace import Recipe, StorageError, Workspace, locks, refusal
from ifguide.workspace.locks import is_locked, locked

RECIPE = Recipe("stage", 1, {}, {})


def write(folder):
    (folder / "content.txt").write_text("content")


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "workspace")


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.ENOSPC, "x"), r"No space left on device: make room there \(stage=clean"),
        (OSError(errno.EDQUOT, "x"), "quota exceeded: make room"),
        (OSError(errno.EFBIG, "x"), r"File too large: raise the limit of the size of files \(ulimit"),
        (OSError(errno.EROFS, "x"), "Read-only file system: choose"),
        (OSError("100 requested and 20 written"), "is the disk full, or the size of files limited"),
        (RuntimeError("[enforce fail at inline.cc:1] . PytorchStreamWriter failed writing"), "is the disk full"),
        (Exception("Error while serializing: I/O error: No space left (os error 28)"), "No space left"),
    ],
)  # fmt: skip
def test_what_a_disk_refuses_is_one_line_that_names_what_and_where(workspace, error, said):
    def fail(folder):
        raise error

    with pytest.raises(StorageError, match=said) as raised:
        workspace.build(RECIPE, fail)
    message = str(raised.value)
    assert message.startswith(f"stage-{RECIPE.fingerprint} cannot be built in {workspace.root}: ")
    assert "\n" not in message and workspace.build(RECIPE, write).path.is_dir()


def test_a_mistake_about_another_place_is_not_the_workspaces(workspace, tmp_path):
    def read_elsewhere(folder):
        (tmp_path / "nowhere").read_text()

    def mistaken(folder):
        raise ValueError("limit=0: it is a whole number, 1 or more")

    with pytest.raises(FileNotFoundError):
        workspace.build(RECIPE, read_elsewhere)
    with pytest.raises(ValueError, match=r"^limit=0"):
        workspace.build(RECIPE, mistaken)
    assert refusal(RuntimeError("another"), tmp_path) is None


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_what_is_finished_is_found_where_nothing_can_be_written(workspace, monkeypatch, number):
    """Of a read-only file system, or of another user."""
    workspace.build(RECIPE, write)

    def refuse(path, *arguments, **options):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK)
    assert workspace.build(RECIPE, write).reused
    with pytest.raises(StorageError, match=r"^paths\.workspace=.*: stage-2 is to be built there, and .* written to"):
        workspace.check_writable("stage-2")
    with pytest.raises(StorageError, match=rf"cannot be built in .*{os.strerror(number)}: choose a folder"):
        workspace.build(Recipe("stage", 2, {}, {}), write)


@pytest.mark.parametrize("name", [".locks", ".building", f".building/stage-{RECIPE.fingerprint}"])
@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")], ids=["file", "dangling link"])
def test_a_file_where_a_folder_should_be_is_named(workspace, name, make):
    place = workspace.root / name
    place.parent.mkdir(parents=True)
    make(place)
    with pytest.raises(StorageError, match=rf"{name}.*a file or a link stands where a folder should; remove it"):
        workspace.build(RECIPE, write)
    place.unlink()
    workspace.build(RECIPE, write)


def test_a_workspace_that_is_removed_meanwhile_is_said(workspace):
    def removed(folder):
        shutil.rmtree(workspace.root)

    with pytest.raises(StorageError, match="No such file or directory: was it removed meanwhile"):
        workspace.build(RECIPE, removed)
    workspace.build(RECIPE, write)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_files_stand_for_locks_where_there_are_none_and_that_is_said(workspace, monkeypatch, caplog, number):
    def refuse(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    locks.missing_locks.cache_clear()
    try:
        with locked(workspace.root, "stage-1"):
            assert is_locked(workspace.root, "stage-1")
        assert not is_locked(workspace.root, "stage-1")
        assert workspace.build(RECIPE, write).path.is_dir()
    finally:
        locks.missing_locks.cache_clear()
    said = [one for one in caplog.messages if "without locks" in one]
    assert len(said) == 1 and errno.errorcode[number] in said[0] and str(workspace.root) in said[0]


def test_a_process_that_died_holds_no_lock(workspace):
    with locked(workspace.root, "stage-1"):
        assert is_locked(workspace.root, "stage-1")
    assert (workspace.root / ".locks" / "stage-1.lock").exists()
    assert not is_locked(workspace.root, "stage-1") and not is_locked(workspace.root, "stage-2")


SHAPE = (1, 6, 4)
SCORES = np.arange(24, dtype=np.float32).reshape(SHAPE)


@pytest.mark.parametrize(
    "tear",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-4]),
        lambda file: file.write_bytes(file.read_bytes()[:7]),
        lambda file: file.write_bytes(b""),
        lambda file: np.save(file, SCORES[:, :1]),
        lambda file: np.save(file, SCORES[:, :2].astype(np.float64)),
    ],
)
def test_a_torn_shard_is_scored_again_and_said(tmp_path, caplog, tear):
    store = ScoreStore(tmp_path, SHAPE, shard_blocks=2)
    for shard in range(3):
        store.write(shard, SCORES[:, store.rows(shard)])
    tear(tmp_path / "shards_of_2" / "1.npy")
    again = ScoreStore(tmp_path, SHAPE, shard_blocks=2)
    assert again.unfinished() == [1] and "1.npy is damaged, and is scored again" in caplog.text
    again.write(1, SCORES[:, again.rows(1)])
    again.join()
    assert (open_scores(tmp_path) == SCORES).all()


def test_torn_scores_are_joined_again(tmp_path, caplog):
    store = ScoreStore(tmp_path, SHAPE, shard_blocks=2)
    for shard in range(3):
        store.write(shard, SCORES[:, store.rows(shard)])
    (tmp_path / "scores.npy").write_bytes(b"half")
    store.join()
    assert (open_scores(tmp_path) == SCORES).all() and "scores.npy is damaged" in caplog.text


def test_room_for_scores_is_set_apart_before_they_are_written(tmp_path, monkeypatch):
    """A write into a mapping on a full disk would be a signal that ends the process."""

    def full(descriptor, start, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"), create_scores(tmp_path, SHAPE):
        raise AssertionError("written")
    monkeypatch.undo()
    with create_scores(tmp_path, SHAPE) as scores:
        scores[:] = SCORES
    assert (open_scores(tmp_path) == SCORES).all()


def test_clocks_do_not_decide_which_checkpoint_is_the_newest(tmp_path, caplog):
    for step, modified in ((3, 2e9), (12, 1e9), (9, 3e9)):
        torch.save({"step": torch.full((100,), step)}, tmp_path / f"step={step}.ckpt")
        os.utime(tmp_path / f"step={step}.ckpt", (modified, modified))
    assert newest_checkpoint(tmp_path).name == "step=12.ckpt"
    content = bytearray((tmp_path / "step=12.ckpt").read_bytes())
    content[content.index(np.full(100, 12).tobytes())] ^= 1  # its ends are whole
    (tmp_path / "step=12.ckpt").write_bytes(content)
    assert newest_checkpoint(tmp_path).name == "step=9.ckpt" and "step=12.ckpt is damaged" in caplog.text


def test_a_signal_before_the_limit_saves_the_step_and_nothing_is_computed_twice(corpus, tmp_path):
    """As SLURM's SIGUSR1: losses before and after are those of an uninterrupted run."""

    class Warned(Recorder):
        def forward(self, *arguments, **options):
            if len(self.losses) == 5:
                assert SaveWhenAsked.ask()
            return super().forward(*arguments, **options)

    whole, before, after = Recorder(), Warned(), Recorder()
    model, _ = run(corpus, tmp_path / "whole", whole, model=model_for(corpus, 0.3))
    with pytest.raises(SystemExit):  # Lightning's answer
        run(corpus, tmp_path / "warned", before, model=model_for(corpus, 0.3))
    assert len(before.losses) == 6 and newest_checkpoint(tmp_path / "warned" / "checkpoints").name == "step=3.ckpt"
    assert not SaveWhenAsked.ask(), "no training is going on"
    resumed, _ = run(corpus, tmp_path / "warned", after, model=model_for(corpus, 0.3))
    assert before.losses + after.losses == whole.losses
    for one, other in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_signal_while_the_last_step_is_validated_saves_it(corpus, tmp_path):
    whole, rest = Recorder(), Recorder()
    _, facts = run(corpus, tmp_path / "whole", whole)
    last = Interrupt(facts["steps"], SaveWhenAsked.ask)
    with pytest.raises(SystemExit):
        run(corpus, tmp_path / "asked", Recorder(), callbacks=[last])
    kept = newest_checkpoint(tmp_path / "asked" / "checkpoints")
    assert kept.name == f"step={facts['steps']}.ckpt" and facts["steps"] % CPU.checkpoint_every
    assert run(corpus, tmp_path / "asked", rest)[1] == facts and len(rest.losses) < len(whole.losses)


def test_checkpoints_of_many_signals_do_not_pile_up(corpus, tmp_path):
    for step in range(1, 6):
        objective = Recorder()
        with pytest.raises(SystemExit):
            run(corpus, tmp_path, objective, callbacks=[AskAfter(step)], epochs=2)
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("*.ckpt"))
    assert names == ["step=3.ckpt", "step=4.ckpt", "step=5.ckpt"]


class AskAfter(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_step == self.step - 1:
            assert SaveWhenAsked.ask()


@pytest.mark.parametrize(
    "job, asked",
    [({"SLURM_JOB_ID": "17"}, "requeue 17"), ({"SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "17",
     "SLURM_ARRAY_TASK_ID": "3"}, "requeue 17_3"), ({}, None), ({"SLURM_JOB_ID": "1; rm"}, None)],
)  # fmt: skip
def test_a_job_of_slurm_goes_back_into_the_queue(tmp_path, monkeypatch, capfd, job, asked):
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    requeue()
    said = (tmp_path / "asked").read_text().strip() if (tmp_path / "asked").exists() else None
    assert said == asked and ("is in the queue again" in capfd.readouterr().err) == (asked is not None)
    monkeypatch.setenv("PATH", "/nowhere")
    requeue()
    assert ("was not put into the queue again" in capfd.readouterr().err) == (asked is not None)


def test_lightning_leaves_our_handler_of_the_signal_alone():
    """It registers its own, which saves elsewhere, only where there is none."""
    from pytorch_lightning.trainer.connectors.signal_connector import _SignalConnector

    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        assert _SignalConnector._has_already_handler(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("place", ["a reader that has gone", "/dev/full"])
def test_what_nobody_reads_is_dropped_and_that_is_said_once(place, monkeypatch, capsys):
    if place == "/dev/full":
        descriptor, said = os.open(place, os.O_WRONLY), "No space left on device"
    else:
        (gone, descriptor), said = os.pipe(), "Broken pipe"
        os.close(gone)
    stream = Lenient(open(descriptor, "wb"), "ascii", "replace")  # noqa: SIM115
    monkeypatch.setattr("sys.stdout", stream)
    for _ in range(3):
        stream.write("→" * 10_000)
        stream.flush()
    os.write(stream.fileno(), b"what a program that is started prints")
    monkeypatch.undo()
    assert capsys.readouterr().err == f"nobody reads what is printed ({said}): the run goes on, see its run.log\n"
    stream.close()


def test_a_folder_that_cannot_be_written_to_ends_the_program_in_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        check_folder("hydra.run.dir", tmp_path / "file" / "run")
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        f"error: hydra.run.dir={tmp_path}/file/run: it cannot be written to (Not a directory); choose another folder\n"
    )
    check_folder("hydra.run.dir", tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())
