import json
import multiprocessing
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ifguide.workspace import (
    Artifact,
    ArtifactError,
    Recipe,
    Workspace,
    canonical_json,
    describe,
    file_signature,
    find_files,
    forget_ranks,
    global_rank,
    unranked,
    wait_until,
    write_json,
)
from ifguide.workspace.environment import describe_code
from ifguide.workspace.ranks import RUN_ID, RUN_NAMES, run_id


def build(workspace, *, settings=None, inputs=None, builder=None, **options):
    def write(directory):
        (directory / "content.txt").write_text("content")
        return {"figure": 3}

    fingerprints = {name: artifact.fingerprint for name, artifact in (inputs or {}).items()}
    return workspace.build(Recipe("stage", 1, settings or {}, fingerprints), builder or write, **options)


def refuse(directory):
    raise AssertionError("built again")


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "workspace", verify=True)


def test_built_once_and_found_again(workspace):
    first = build(workspace, settings={"a": 1})
    again = build(workspace, settings={"a": 1}, builder=refuse)
    assert first == again and not first.reused and again.reused
    assert first.path.name == f"stage-{first.fingerprint}"
    assert first.manifest["facts"] == {"figure": 3} and first.manifest["settings"] == {"a": 1}


def test_settings_inputs_and_version_decide_the_fingerprint(workspace):
    base = build(workspace, settings={"a": 1, "b": [2, None]})
    assert build(workspace, settings={"b": [2, None], "a": 1}, builder=refuse) == base
    other = build(workspace, settings={"a": 2, "b": [2, None]})
    with_input = build(workspace, settings={"a": 1, "b": [2, None]}, inputs={"other": other})
    newer = workspace.build(Recipe("stage", 2, {"a": 1}, {}), lambda directory: None)
    assert len({artifact.fingerprint for artifact in (base, other, with_input, newer)}) == 4


def change(path, **entries):
    file = path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def replace(path, make):
    shutil.rmtree(path)
    make()


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: (path / "content.txt").unlink(), "lacks the file content.txt"),
        (lambda path: (path / "content.txt").write_text("more content"), "12 bytes"),
        (lambda path: (path / "content.txt").write_text("CONTENT"), "content hash"),
        (lambda path: (path / "manifest.json").unlink(), "no manifest.json"),
        (lambda path: (path / "manifest.json").write_text("{"), "damaged"),
        (lambda path: (path / "manifest.json").write_text("[" * 100_000), "damaged"),
        (lambda path: (path / "manifest.json").write_bytes(b"\xff"), "damaged"),
        (lambda path: (path / "manifest.json").write_text("[1]"), "no manifest of an artifact"),
        (lambda path: change(path, files=["content.txt"]), "no manifest of an artifact"),
        (lambda path: change(path, files={"content.txt": 7}), "no manifest of an artifact"),
        (lambda path: change(path, files={"../content.txt": {"size": 1, "sha256": ""}}), "no manifest of an artifact"),
        (lambda path: change(path, inputs={"data": None}), "no manifest of an artifact"),
        (lambda path: change(path, seconds="long"), "no manifest of an artifact"),
        (lambda path: replace(path, lambda: path.touch()), "not an artifact that can be read"),
        (lambda path: replace(path, lambda: path.symlink_to("nowhere")), "is not an artifact"),
    ],
)
def test_damage_is_noticed(workspace, damage, message):
    damage(build(workspace).path)
    with pytest.raises(ArtifactError, match=message):
        build(workspace, builder=refuse)


def test_a_mismatch_names_the_differing_keys(workspace):
    artifact = build(workspace, settings={"optim": {"rate": 1}})
    manifest = artifact.manifest
    manifest["settings"]["optim"]["rate"] = 2
    (artifact.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"settings\.optim\.rate"):
        build(workspace, settings={"optim": {"rate": 1}}, builder=refuse)


def test_a_failed_build_leaves_no_artifact_and_a_resumable_one_continues(workspace):
    def fail(directory):
        (directory / "half.txt").write_text("half")
        raise RuntimeError("killed")

    for resumable in (True, False):
        with pytest.raises(RuntimeError, match="killed"):
            build(workspace, builder=fail, resumable=True)
        assert not list(workspace.root.glob("stage-*"))
        seen = []
        build(workspace, builder=lambda d, s=seen: s.extend(p.name for p in d.iterdir()), resumable=resumable,
              settings={})  # fmt: skip
        assert [name for name in seen if name != "started"] == (["half.txt"] if resumable else [])
        for path in workspace.root.glob("stage-*"):
            path.rename(workspace.root / f"old-{resumable}")


@pytest.mark.parametrize(
    "error, resumable, writes, left",
    [
        (ValueError, False, True, False),
        (ValueError, True, True, True),
        (ValueError, True, False, False),
        (KeyboardInterrupt, True, True, True),
    ],
)
def test_a_failed_build_leaves_only_what_can_be_resumed(workspace, error, resumable, writes, left):
    def fail(directory):
        (directory / "shards").mkdir()
        if writes:
            (directory / "shards" / "half.txt").write_text("half")
        raise error

    with pytest.raises(error):
        build(workspace, builder=fail, resumable=resumable)
    assert bool(list(workspace.root.glob(".building/stage-*"))) == left


def test_the_seconds_of_a_resumed_build_are_those_of_all_sessions(workspace):
    def dies(directory):
        (file := directory / f"shard-{len(list(directory.glob('shard-*')))}").write_text("half")
        later = (directory / "started").stat().st_mtime + 1000
        os.utime(file, (later, later))
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            build(workspace, builder=dies, resumable=True)
    (building,) = workspace.root.glob(".building/stage-*")
    os.utime(building / "shard-0", (0, 0))  # of an earlier session
    made = build(workspace, resumable=True).manifest
    assert made["resumed"] and 2000 <= made["seconds"] < 2100
    assert set(made["files"]) == {"content.txt", "shard-0", "shard-1"}


def test_a_kill_before_the_last_rename_is_survived(workspace):
    def dies(directory):
        (directory / "content.txt").write_text("content")
        (directory / "manifest.json").write_text("{}")
        (directory / "manifest.json.tmp").write_text("{")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        build(workspace, builder=dies, resumable=True)
    build(workspace, resumable=True)
    assert set(build(workspace, builder=refuse).manifest["files"]) == {"content.txt"}


def _build_slowly(root, log):
    def slow(directory):
        with open(log, "a") as file:
            file.write("built\n")
        time.sleep(0.5)

    Workspace(root).build(Recipe("stage", 1, {}, {}), slow)


def test_two_processes_build_once(tmp_path):
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_build_slowly, args=(tmp_path / "w", log)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert log.read_text() == "built\n"


def test_opening_checks_the_stage(workspace):
    artifact = build(workspace)
    assert Artifact.open(artifact.path, stage="stage") == artifact
    with pytest.raises(ArtifactError, match="where a `mask` is needed"):
        Artifact.open(artifact.path, stage="mask")


def test_a_signature_follows_content_not_place(tmp_path):
    a, b = tmp_path / "a.bin", tmp_path / "b.bin"
    a.write_bytes(b"x" * (3 << 20))
    b.write_bytes(b"x" * (3 << 20))
    assert file_signature(a) == file_signature(b)
    b.write_bytes(b"x" * (1 << 20) + b"y" + b"x" * ((2 << 20) - 1))
    assert file_signature(a) != file_signature(b)


def test_json_holds_no_number_that_is_not_finite(tmp_path):
    value = {
        "perplexity": np.float64("inf"),
        "interval": [1.5, float("nan")],
        "rest": (1, "Infinity", None, True),
    }
    write_json(tmp_path / "a.json", value)

    def refuse(constant):
        raise AssertionError(constant)

    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert found == {"perplexity": None, "interval": [1.5, None], "rest": [1, "Infinity", None, True]}
    assert json.loads(canonical_json(describe(float("inf")))) == "inf"


def test_a_first_process_that_never_comes_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    (tmp_path / ".building" / "stage-0").mkdir(parents=True)
    quick = dict(limit_seconds=0.01, poll_seconds=0.01)
    with pytest.raises(ValueError, match=r"^this is process 1 of a run.* unset RANK$"):
        wait_until((tmp_path / "manifest").exists, **quick)
    end = time.monotonic() + 0.3
    wait_until(lambda: time.monotonic() > end, alive=lambda: True, **quick)  # it is at work, for however long
    forget_ranks()
    assert global_rank() == 0 and "RANK" not in os.environ


@pytest.mark.parametrize("collective", [False, True])
def test_what_a_dead_first_process_left_is_no_sign_of_life(workspace, monkeypatch, collective):
    """Of a stale RANK, beside the leftovers of a build that was killed."""
    recipe = Recipe("stage", 1, {}, {})
    building = workspace.root / ".building" / workspace.folder(recipe).name
    building.mkdir(parents=True)
    (building / "started").touch()
    (workspace.root / ".locks").mkdir()
    (workspace.root / ".locks" / f"{building.name}.lock").touch()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(wait_until, "__kwdefaults__", wait_until.__kwdefaults__ | {"limit_seconds": 0.3})
    with pytest.raises(ValueError, match=r"nothing was seen of the first one; start all, or unset RANK$"):
        workspace.build(recipe, refuse, collective=collective)


def test_what_starts_other_processes_says_nothing_of_ranks(monkeypatch):
    for name, value in {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "RANK": "0", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    found = unranked()
    assert found["SLURM_JOB_ID"] == "7" and not {"SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "RANK"} & set(found)


def _build_in_a_run(root, name, said):
    """As the first process of a run that its launcher calls so."""
    os.environ["TORCHELASTIC_RUN_ID"] = name

    def slow(directory):
        said.put("begun")
        time.sleep(1.5)

    Workspace(root).build(Recipe("stage", 1, {}, {}), slow, collective=True)


@pytest.mark.parametrize("run, joins", [("ours", True), ("theirs", False)])
def test_a_rank_joins_the_build_of_its_own_run_alone(tmp_path, monkeypatch, run, joins):
    """Of another run that shares the workspace it waits for the end: its own first process does not build."""
    for name, value in (("RANK", "1"), ("TORCHELASTIC_RUN_ID", "ours")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("IFGUIDE_RUN_ID", raising=False)
    context, built = multiprocessing.get_context("spawn"), []
    said = context.Queue()
    monkeypatch.delenv("RANK")
    process = context.Process(target=_build_in_a_run, args=(tmp_path, run, said))
    process.start()
    assert said.get() == "begun"
    monkeypatch.setenv("RANK", "1")
    artifact = Workspace(tmp_path).build(Recipe("stage", 1, {}, {}), built.append, collective=True)
    process.join()
    monkeypatch.delenv("IFGUIDE_RUN_ID", raising=False)
    assert process.exitcode == 0 and bool(built) == joins and (artifact.path / "manifest.json").is_file()


def test_a_run_has_a_name_of_its_own_or_that_of_its_launcher(monkeypatch):
    for name in (RUN_ID, *RUN_NAMES):
        monkeypatch.delenv(name, raising=False)
    alone = run_id()
    assert run_id() == alone == os.environ["IFGUIDE_RUN_ID"], "for those that it starts"
    forget_ranks()
    assert run_id() != alone
    forget_ranks()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert run_id() == "7 0"
    forget_ranks()


def test_a_file_that_exists_is_that_file_whatever_its_name_and_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a [b]*?, c=(d).jsonl", "a b.jsonl"):
        (tmp_path / name).touch()
        assert find_files(f"~/{name}") == find_files(str(tmp_path / name)) == [tmp_path / name]


def test_a_folder_whose_name_has_signs_is_that_folder_within_a_glob(tmp_path, monkeypatch):
    for place in ("a [1]/b/x.jsonl", "a [1]/b/y.jsonl", "a [1]/c*/x.jsonl", "a 1/b/z.jsonl", "a [1]/.hidden.jsonl"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()

    def names(pattern):
        return [str(path.relative_to(tmp_path)) for path in find_files(f"{tmp_path}/{pattern}")]

    assert names("a [1]/b/*.jsonl") == ["a [1]/b/x.jsonl", "a [1]/b/y.jsonl"]
    assert names("a [1]/*/x.jsonl") == ["a [1]/b/x.jsonl", "a [1]/c*/x.jsonl"]
    assert names("a [1]/**/*.jsonl") == ["a [1]/b/x.jsonl", "a [1]/b/y.jsonl", "a [1]/c*/x.jsonl"]
    assert names("a [1]/c*/*.jsonl") == ["a [1]/c*/x.jsonl"], "that folder, not those that the sign stands for"
    assert names("a 1*/b/*.jsonl") == ["a 1/b/z.jsonl"]
    monkeypatch.chdir(tmp_path / "a [1]")
    assert find_files("b/*.jsonl") == [Path("b/x.jsonl"), Path("b/y.jsonl")]
    assert find_files("../a [1]/b/x*") == [Path("../a [1]/b/x.jsonl")]
    with pytest.raises(ValueError, match=r"^'/' is a folder"):
        find_files("/")


def test_a_file_that_links_lead_to_twice_is_not_read_twice(tmp_path):
    (tmp_path / "x.jsonl").touch()
    (tmp_path / "again").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"x\.jsonl is named, or matched, \d+ times; name it once"):
        find_files(f"{tmp_path}/**/*.jsonl")
    (tmp_path / "again").unlink()
    (tmp_path / "y.jsonl").symlink_to(tmp_path / "x.jsonl")
    assert find_files(f"{tmp_path}/y*") == [tmp_path / "y.jsonl"], "and a link's own name decides how it is read"


def test_a_manifest_names_the_code_and_what_was_changed_in_it(tmp_path):
    """A change of a tracked file has a hash of its own; a folder inside someone else's checkout has no commit."""

    def git(*command):
        return subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert describe_code(tmp_path) == {"git_commit": None, "git_changes": None}
    git("init", "-q")
    (tmp_path / "ifguide").mkdir()
    file = tmp_path / "ifguide" / "__init__.py"
    file.write_text("a = 1\n")
    assert describe_code(tmp_path)["git_commit"] is None, "it is not tracked"
    git("add", "-A")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first")
    clean = describe_code(tmp_path)
    assert clean == {"git_commit": git("rev-parse", "HEAD").strip(), "git_changes": None}
    found = []
    for text in ("a = 2\n", "a = 3\n", "a = 2\n"):
        file.write_text(text)
        found.append(describe_code(tmp_path)["git_changes"])
    assert found[0] == found[2] != found[1] and len(found[0]) == 64


def test_a_manifest_names_the_hardware(workspace):
    hardware = build(workspace).manifest["environment"]["hardware"]
    assert hardware["processor"] and hardware["cores"] >= 1
    assert len(hardware["devices"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
