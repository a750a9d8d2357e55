import logging

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import SimpleProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy
from test_training import Recorder, run

from ifguide.training.context import TrainingContext, save_trained
from ifguide.training.trainer import TrainerSettings, further_arguments, interval


class Watch(pl.Callback):
    def on_train_start(self, trainer, module):
        self.profiler, self.strategy = trainer.profiler, trainer.strategy
        self.deterministic = torch.are_deterministic_algorithms_enabled()


def test_batches_that_do_not_divide_are_refused():
    for batch_size, options in ((5, dict(micro_batch_size=2)), (4, dict(devices=3)), (1, dict(devices=2))):
        with pytest.raises(ValueError, match=f"^batch_size={batch_size} does not divide"):
            TrainerSettings(**options).accumulate(batch_size)
    assert TrainerSettings(micro_batch_size=2, devices=2).accumulate(8) == 2


@pytest.fixture
def deterministic():
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


def test_further_arguments_reach_the_trainer_and_change_nothing(corpus, tmp_path, deterministic, caplog):
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # as a run does
    watch, plain, other = Watch(), Recorder(), Recorder()
    strategy, options = SingleDeviceStrategy("cpu"), dict(micro_batch_size=2, progress=False)
    settings = TrainerSettings(**options, profiler="simple", deterministic=True, strategy=strategy)
    run(corpus, tmp_path / "one", other, trainer=settings, callbacks=[watch])
    assert isinstance(watch.profiler, SimpleProfiler) and watch.deterministic
    assert "Profiler Report" in caplog.text
    assert isinstance(watch.strategy, SingleDeviceStrategy) and watch.strategy is not strategy, "one of its own"
    run(corpus, tmp_path / "again", Recorder(), trainer=settings)
    run(corpus, tmp_path / "two", plain, trainer=TrainerSettings(**options))
    assert plain.losses == other.losses
    assert isinstance(settings.inference_trainer().profiler, SimpleProfiler)


@pytest.mark.parametrize(
    "name, message",
    [
        ("max_steps", "^max_steps=1: decided by epochs of the optimisation"),
        ("callbacks", "^callbacks=1: .*group callbacks"),
        ("logger", "^logger=1: "),
        ("accumulate_grad_batches", "^accumulate_grad_batches=1: "),
        ("gradient_clip_val", "^gradient_clip_val=1: decided by clip "),
        ("limit_train_batches", "^limit_train_batches=1: "),
        ("profilr", "^profilr=1: no argument of Lightning's trainer; known: .*deterministic.*profiler"),
        ("devices", None),
    ],
)
def test_what_is_decided_elsewhere_or_unknown_is_refused(name, message):
    if message is None:
        assert TrainerSettings(**{name: 1}).devices == 1
        return
    with pytest.raises(ValueError, match=message):
        TrainerSettings(**{name: 1})


def test_every_argument_of_the_trainer_has_one_place():
    assert {"profiler", "deterministic", "plugins", "benchmark"} <= set(further_arguments())
    assert not {"max_steps", "devices", "logger", "self"} & set(further_arguments())


@pytest.mark.parametrize(
    "options",
    [
        {"devices": 0},
        {"micro_batch_size": 0},
        {"validate_every": 1.5},
        {"log_every": 0},
        {"precision": "16-mixed"},
        {"devices": "auto"},
    ],
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))}="):
        TrainerSettings(**options)


def test_an_interval_is_steps_or_a_share_of_them():
    assert [interval(every, 20) for every in (5, 0.25, 0.01, 99, 1)] == [5, 5, 1, 20, 1]


def test_validation_every_share_of_a_run_is_that_of_so_many_steps(corpus, tmp_path):
    class Counts(pl.Callback):
        def __init__(self):
            self.at = []

        def on_validation_end(self, trainer, module):
            self.at.append(trainer.global_step)

    seen = []
    for every in (2, 0.25):
        seen.append(Counts())
        settings = TrainerSettings(micro_batch_size=2, progress=False, validate_every=every)
        _, facts = run(corpus, tmp_path / str(every), Recorder(), trainer=settings, callbacks=[seen[-1]])
    share = max(1, round(facts["steps"] / 4))
    assert seen[0].at[:2] == [2, 4] and seen[1].at[:2] == [share, 2 * share]


def test_a_trained_model_is_written_by_the_first_process_and_leaves_no_checkpoint(corpus, tmp_path, monkeypatch):
    context = TrainingContext(TrainerSettings(progress=False, micro_batch_size=2, checkpoint_every=2), tmp_path)
    model, _ = run(corpus, tmp_path, Recorder(), trainer=context.trainer)
    assert list(context.checkpoints.glob("*.ckpt"))
    monkeypatch.setattr("ifguide.training.context.global_rank", lambda: 1)
    save_trained(model, corpus.tokenizer, tmp_path)
    assert list(context.checkpoints.glob("*.ckpt")) and not (tmp_path / "config.json").exists()
    monkeypatch.setattr("ifguide.training.context.global_rank", lambda: 0)
    save_trained(model, corpus.tokenizer, tmp_path)
    assert not context.checkpoints.exists() and (tmp_path / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    "precision, message",
    [
        ("16-mixed", "a CPU computes in 32-true or bf16-mixed; float16 needs a GPU"),
        ("fp16", "known: auto, 32-true, bf16-mixed"),
        ("16", "known: "),
    ],
)
def test_a_precision_is_what_its_name_says(precision, message):
    with pytest.raises(ValueError, match=f"^precision={precision}[:;] .*{message}"):
        TrainerSettings(precision=precision)


def test_how_a_batch_is_split():
    assert TrainerSettings(micro_batch_size=4).split(4) == [1, 1] == TrainerSettings(micro_batch_size=9).split(4)
    assert TrainerSettings(micro_batch_size=4).split(16) == [4, 1]
    assert TrainerSettings(micro_batch_size=2, devices=2).split(8) == [2, 2]
    assert TrainerSettings(micro_batch_size=3).split(4) == [2, 1], "which `accumulate` refuses"


def test_each_process_of_a_node_has_a_device_of_its_own(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert TrainerSettings(accelerator="gpu").device == torch.device("cuda")
    monkeypatch.setenv("SLURM_LOCALID", "2")
    assert TrainerSettings(accelerator="gpu", devices=4).device == torch.device("cuda", 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert TrainerSettings(accelerator="auto", devices=2).device == torch.device("cuda", 1)
    assert TrainerSettings(devices=2).device == torch.device("cpu")
