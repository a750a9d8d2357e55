"""Every option of every group composes, and every key of it is an argument of what it builds."""

import inspect
import itertools
import re

import pytest
from composing import CONF, composed
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from ifguide.stages.configuration import expand_home, make, make_workspace, prepare
from ifguide.stages.plan import make_plan
from ifguide.training.trainer import further_arguments

OPTIONS = sorted((path.parent.name, path.stem) for path in CONF.glob("*/*.yaml"))
OVERRIDING = {"method", "experiment", "debug", "tuning"}  # groups whose options choose or set those of others
SPECIAL = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def targets(node, place="", names=()):
    """(place, node) of everything with a `_target_`."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield place, node
        for key in node:
            if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
                yield from targets(node[key], f"{place}.{key}".lstrip("."))


def check_bound(cfg):
    found = list(targets(cfg))
    for place, node in found:
        signature = inspect.signature(get_object(node["_target_"]))
        keys = [key for key in node if key not in SPECIAL]
        if node["_target_"].endswith(".TrainerSettings"):  # any argument of Lightning's trainer is one of its own
            assert set(keys) <= {*signature.parameters, *further_arguments()}, place
            continue
        assert not any(p.kind == p.VAR_KEYWORD for p in signature.parameters.values()), place
        signature.bind_partial(**dict.fromkeys(keys))
    return {place.split(".")[0] for place, _ in found}


PLACES = {  # of groups whose options are entries of a node
    "queries": "queries@behaviours.toxicity={}", "task": "task@tasks.toxicity={}",
    "classifier": "classifier@classifiers.toxicity={}", "utility": "+utility@utilities.{0}={0}",
    "experiment": "+experiment={}", "debug": "+debug={}",
}  # fmt: skip


NEEDED = {"tune": "hydra_plugins.hydra_optuna_sweeper"}  # option → module that it composes with


def chosen_together():
    """Choices that compose at once: one option of each group, the next of each, …; those that choose others alone."""
    groups: dict[str, list[str]] = {}
    for group, option in OPTIONS:
        groups.setdefault(group, []).append(PLACES.get(group, f"{group}={{}}").format(option))
    alone = [[choice] for group in sorted(OVERRIDING & set(groups)) for choice in groups.pop(group)]
    rounds = itertools.zip_longest(*groups.values())
    return [*alone, *([choice for choice in choices if choice is not None] for choices in rounds)]


@pytest.mark.parametrize("choices", chosen_together(), ids=lambda choices: choices[0] if len(choices) == 1 else None)
def test_every_option_composes_and_binds(choices):
    for option, module in NEEDED.items():
        if any(choice.endswith(f"={option}") for choice in choices):
            pytest.importorskip(module)
    rooms = check_bound(composed(*choices))
    assert "utilities" in rooms or not any("utility@" in choice for choice in choices)
    assert rooms >= {"data", "behaviours", "model", "proxy", "optim", "objective", "scorer", "selection", "tasks"}


@pytest.mark.parametrize("group, place", [("task", "tasks"), ("classifier", "classifiers")])
def test_every_task_and_classifier_can_be_a_further_one(group, place):
    options = [option for of, option in OPTIONS if of == group]
    cfg = composed(*(f"+{group}@{place}.{option}={option}" for option in options))
    assert list(cfg[place]) == ["toxicity", *options]


def test_the_defaults_are_those_of_the_design():
    cfg = composed()
    assert cfg.objective["_target_"].endswith("SuppressedLanguageModeling")
    assert composed("method=none").objective["_target_"].endswith(".LanguageModeling")
    assert cfg.proxy == {**cfg.model, "seed": 0} and cfg.proxy_optim == {**cfg.optim, "epochs": 1}


def test_the_seed_reaches_only_the_target_and_generation():
    first, other = (OmegaConf.to_container(composed(f"seed={s}", "paths.run=r"), resolve=True)
                    for s in (0, 7))  # fmt: skip
    assert {key for key in first if first[key] != other[key]} == {"seed", "model"}


def test_runs_that_start_in_one_second_have_folders_of_their_own():
    """Their folders are named to the microsecond; a process keeps its own for as long as it runs."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        made = [compose("config", overrides=["paths.run=r"], return_hydra_config=True).hydra for _ in range(2)]
    for hydra in made:
        for folder, kind in ((hydra.run.dir, "outputs"), (hydra.sweep.dir, "multirun")):
            assert re.fullmatch(kind + r"/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-\d{6}", folder)
    assert made[0].run.dir != made[1].run.dir and made[0].run.dir == made[0].run.dir


def test_none_is_not_null():
    for override in (
        "paths.mask=None",
        "optim.clip=None",
        "data.sources.sample.size=None",
        "paths.mask=",
        "model.pretrained=",
    ):
        with pytest.raises(ValueError, match=f"^{override}: that is a text; where there is none, write null"):
            prepare(composed(override, "paths.run=r"))
    prepare(composed("data=local", "+data.sources.local.where.kind=[None]", "paths.run=r"))


@pytest.mark.parametrize("devices", ["auto", -1, 0, "[0,1]", "two", 1.5])
def test_processes_are_counted_in_whole_numbers(devices):
    with pytest.raises(ValueError, match=r"^trainer\.devices=.*: it is a whole number, 1 or more"):
        prepare(composed(f"trainer.devices={devices}", "paths.run=r"))


def test_a_workspace_is_a_folder(tmp_path):
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        workspace = make_workspace(composed(f"paths.workspace={tmp_path}/{place}"))
        with pytest.raises(ValueError, match=rf"^paths\.workspace=.*{place}: data-1 is to be .*file is no folder that"):
            workspace.check_writable("data-1")
    make_workspace(composed(f"paths.workspace={tmp_path}/not/yet")).check_writable("data-1")


@pytest.mark.parametrize(
    "override, refused",
    [
        ("optim.optimizer._target_=os.system", "os.system"),
        ("+scorer.x={_target_: ifguide.workspace.files.os.system}", "ifguide.workspace.files.os.system"),
        ("+scorer.x=[{_target_: torch.hub.load}]", "torch.hub.load"),
        ("+scorer.x={y: {_target_: torchvision.io.read_file}}", "torchvision.io.read_file"),
    ],
)
def test_a_configuration_names_what_is_of_this_project_only(override, refused, monkeypatch):
    key = re.split(r"[.=]", override.lstrip("+"))[0]
    cfg = composed(override)
    with pytest.raises(
        ValueError, match=rf"^{key}\..*_target_={re.escape(refused)}: a configuration may name .*TARGETS="
    ):
        make(cfg, key)
    monkeypatch.setenv("IFGUIDE_TARGETS", "fractions.*")
    assert make(composed("+scorer.x={_target_: fractions.Fraction, numerator: 3}"), "scorer.x") == 3


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "a\\b", "a\nb"])
@pytest.mark.parametrize("group", ["behaviours", "tasks", "classifiers", "utilities"])
def test_a_name_leads_out_of_no_folder(group, name):
    cfg = composed("paths.run=r")
    cfg[group] = {name: {}}
    with pytest.raises(ValueError, match=rf"^{group}\.{re.escape(name)}: a name has letters"):
        prepare(cfg)


def test_a_job_of_slurm_that_started_one_process_of_four_says_so(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    cfg = composed("trainer=ddp_cpu", "trainer.devices=4", "paths.run=r")
    with pytest.raises(
        ValueError, match=r"^trainer\.devices and .* ask for 4 .*`srun python run\.py …`.* unset SLURM_NTASKS"
    ):
        prepare(cfg)
    for name, value in (("SLURM_STEP_NUM_TASKS", "4"), ("SLURM_JOB_NAME", "interactive"), ("LOCAL_RANK", "1")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            prepare(cfg)
    prepare(composed("paths.run=r"))  # one process never waits


@pytest.mark.parametrize(
    "override",
    ["evaluation.batch_size=0", "evaluation.batch_size=2.5", "tasks.toxicity.samples=2.5", "trainer.log_every=0.5",
     "tasks.toxicity.rows=0", "optim.batch_size=16.0", "curvature.blocks=0", "influence.batch_size=1.5"],
)  # fmt: skip
def test_what_is_counted_is_a_whole_number(override):
    with pytest.raises(ValueError, match=f"^{override}: it is a whole number, 1 or more"):
        make_plan(composed("+debug=smoke", "paths.run=r", override)).check()


def test_unknown_keys_and_options_are_refused():
    for override in ("optim.learningrate=1", "method=nothing"):
        with pytest.raises(ConfigCompositionException):
            composed(override)


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONF / "model").glob("*.yaml")))
def test_model_shapes_have_their_published_size(option):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    published = {  # parameters in millions, embeddings and head included
        "pythia_14m": 14, "pythia_31m": 31, "pythia_70m": 70, "pythia_160m": 162, "pythia_410m": 405,
        "pythia_1b": 1012, "pythia_1_4b": 1415, "pythia_2_8b": 2775, "gpt2": 124, "llama_3_2_1b": 1076,
        "smollm2_135m": 135,
    }  # fmt: skip
    both = composed(f"model={option}", f"model@proxy={option}")
    cfg = both.model
    assert both.proxy == {**cfg, "seed": 0}
    settings = OmegaConf.to_container(cfg.settings)
    settings["vocab_size"] = settings["vocab_size"] or 2048
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(cfg.architecture, **settings))
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(published.get(option, 1.3), rel=0.02)


@pytest.mark.parametrize(
    "key", ["seed", "data.seed", "influence.seed", "proxy.seed", "post_training.seed", "student.seed"]
)
@pytest.mark.parametrize("value", [2**32, -1, 0.5])
def test_a_seed_that_not_everything_takes_names_its_setting(key, value):
    groups = ["post_training=dpo"] if "post" in key else ["student=words"] if "student" in key else []
    cfg = composed(*groups, f"{key}={value}")
    with pytest.raises(ValueError, match=rf"^{key}={value}: .*4294967295"):
        make_plan(cfg, "model")


def test_paths_from_home_are_found_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("HOME", "/house")
    cfg = OmegaConf.create(
        {"a": {"path": "~/x", "same": "${a.path}"}, "files": ["~/y", "b~/z"], "none": None, "all": "???"}
    )
    expand_home(cfg)
    assert cfg.a.path == cfg.a.same == "/house/x" and list(cfg.files) == ["/house/y", "b~/z"]
