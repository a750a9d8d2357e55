"""What a stage is: a value that says what decides an artifact, and how it is built.

A stage is a frozen dataclass. Each of its fields says what it is:

- `setting()`: decides the content, so it is in the fingerprint;
- `late_setting(default)`: likewise, but left out while it has its default, so that older artifacts stay valid;
- `made_from()`: another stage, a mapping of stages, or None: its artifact is an input;
- `speed()`: decides how fast or where it is computed, or who watches; never in the fingerprint.

A stage never sees the configuration, and holds no model: those are opened while it builds, and released with it.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ifguide.corpus.blocks import Corpus
from ifguide.cost import CorpusSize, Work
from ifguide.workspace import Artifact, ArtifactError, Recipe, Workspace, describe, read_manifest

Kind = TypeVar("Kind", bound="Stage")
KIND = "kind"
SETTING, LATE_SETTING, INPUT, SPEED = "setting", "late setting", "input", "speed"


def setting(default: Any = MISSING) -> Any:
    return _field(SETTING, default)


def late_setting(default: Any) -> Any:
    return _field(LATE_SETTING, default)


def made_from(default: Any = MISSING) -> Any:
    return _field(INPUT, default)


def speed(default: Any = MISSING) -> Any:
    return _field(SPEED, default)


def _field(kind: str, default: Any) -> Any:
    if isinstance(default, dict):
        return field(default_factory=dict, metadata={KIND: kind})
    return field(default=default, metadata={KIND: kind})


class Inputs:
    """The artifacts that a stage is made from, by the name of its field."""

    def __init__(self, artifacts: Mapping[str, Artifact]) -> None:
        self._artifacts = dict(artifacts)

    def __getitem__(self, name: str) -> Path:
        """Folder of the input of a field that holds one stage."""
        return self._artifacts[name].path

    def __contains__(self, name: str) -> bool:
        return name in self._artifacts

    def each(self, name: str) -> dict[str, Path]:
        """Key → folder of the inputs of a field that holds a mapping of stages."""
        prefix = f"{name}."
        return {key[len(prefix) :]: made.path for key, made in self._artifacts.items() if key.startswith(prefix)}

    def corpus(self, name: str = "data") -> Corpus:
        return Corpus(self[name])


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """A stage; subclasses add fields, `build`, and what they can refuse.

    Attributes:
        name: of the artifact's folder.
        version: raised whenever the meaning of its content changes.
        resumable: a killed or failed build is continued.
        collective: every process of a distributed run builds; otherwise the first alone does.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    resumable: ClassVar[bool] = False
    collective: ClassVar[bool] = False

    def check(self) -> None:
        """Raise ValueError for what a user can get wrong, before anything is built.

        A message begins with the name of the field that it is about; whoever made the stage knows how it was typed.
        """

    def check_corpus(self, corpus: Corpus) -> None:
        """Raise ValueError for what only the corpus tells, before anything is trained."""

    def build(self, folder: Path, inputs: Inputs) -> Mapping[str, Any] | None:
        """Write the artifact's files into a folder; what is returned are facts for its manifest."""
        raise NotImplementedError

    def work(self, corpus: CorpusSize) -> Work | None:
        """What building it would take, by its settings and the size of the corpus alone; None: it does not say."""
        return None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decides the content, beside the inputs, as JSON."""
        found = {}
        for one in fields(self):
            value, kind = getattr(self, one.name), one.metadata[KIND]
            if kind == SETTING or (kind == LATE_SETTING and value and value != one.default):
                found[one.name] = describe(value, one.name)
        return found | self.derived_settings()

    def derived_settings(self) -> dict[str, Any]:
        """What decides the content and is no field of its own, as JSON."""
        return {}

    @cached_property
    def inputs(self) -> dict[str, "Stage"]:
        """Field → stage; `field.key` where a field holds a mapping."""
        found: dict[str, Stage] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.metadata[KIND] != INPUT or value is None:
                continue
            if isinstance(value, Mapping):
                found |= {f"{one.name}.{key}": stage for key, stage in value.items()}
            else:
                found[one.name] = value
        return found

    @cached_property
    def recipe(self) -> Recipe:
        inputs = {key: stage.fingerprint for key, stage in self.inputs.items()}
        return Recipe(self.name, self.version, self.settings, inputs)

    @property
    def fingerprint(self) -> str:
        return self.recipe.fingerprint

    def is_in(self, workspace: Workspace) -> bool:
        return workspace.holds(self.recipe)

    def is_being_built(self, workspace: Workspace) -> bool:
        return workspace.is_building(self.recipe)

    def place(self, workspace: Workspace) -> Path:
        """Where its artifact is, or will be."""
        return workspace.folder(self.recipe)

    def make(self, workspace: Workspace, inputs: Mapping[str, Artifact]) -> Artifact:
        """The stage's artifact, found in the workspace or built there.

        Args:
            workspace: where.
            inputs: the artifacts of `inputs`, by the same names.
        """
        return workspace.build(
            self.recipe,
            lambda folder: self.build(folder, Inputs(inputs)),
            resumable=self.resumable,
            collective=self.collective,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Existing(Stage):
    """An artifact that another run made, taken as it is.

    Args:
        folder: its folder.
        stage: the stage that it must be of.
    """

    version: ClassVar[int] = 0

    folder: Path = speed()  # noqa: RUF009 (a dataclass field)
    stage: str = speed()

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.stage

    def check(self) -> None:
        Artifact.open(self.folder, stage=self.stage)

    @property
    def fingerprint(self) -> str:
        return str(read_manifest(self.folder)["fingerprint"])

    def made_of(self, name: str) -> str:
        """Fingerprint of one of its inputs.

        Raises:
            ArtifactError: it has none of this name.
        """
        inputs = read_manifest(self.folder)["inputs"]
        if name not in inputs:
            raise ArtifactError(f"{self.folder} was made from {', '.join(inputs) or 'nothing'}, not from `{name}`")
        return str(inputs[name])

    def input(self, name: str) -> "Existing":
        """One of its inputs, which lies in the same workspace.

        Raises:
            ArtifactError: it has none of this name, or that is no longer there.
        """
        fingerprint = self.made_of(name)
        found = next(self.folder.absolute().parent.glob(f"*-{fingerprint}"), None)
        if found is None:
            raise ArtifactError(f"{self.folder}: the {name} that it was made from (…-{fingerprint}) are not beside it")
        return Existing(folder=found, stage=found.name.rpartition("-")[0])

    def is_in(self, workspace: Workspace) -> bool:
        return True

    def is_being_built(self, workspace: Workspace) -> bool:
        return False

    def place(self, workspace: Workspace) -> Path:
        return self.folder

    def make(self, workspace: Workspace, inputs: Mapping[str, Artifact]) -> Artifact:
        return Artifact.open(self.folder, stage=self.stage, verify=workspace.verify)


def closure(stage: Stage) -> list[Stage]:
    """A stage and all that it is made from, each once, inputs first."""
    found: dict[str, Stage] = {}

    def visit(one: Stage) -> None:
        for child in one.inputs.values():
            visit(child)
        found.setdefault(one.fingerprint, one)

    visit(stage)
    return list(found.values())


@dataclass(frozen=True)
class Plan:
    """What a run will build or find.

    Attributes:
        targets: what is asked for.
        roles: role → stage, for the stages that the targets need and no others.
        typed: role → field of the stage → the setting as a user types it.
        row: what a reader of the run's results must know: the content of `run.json` but for the artifacts.
    """

    targets: tuple[Stage, ...]
    roles: Mapping[str, Stage]
    typed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def stages(self) -> list[Stage]:
        """Each stage once, inputs first; before all others the corpus, and classifiers."""
        found = {stage.fingerprint: stage for target in self.targets for stage in closure(target)}
        return sorted(found.values(), key=lambda stage: (bool(stage.inputs), stage.name != "data"))

    def named(self, kind: type[Kind]) -> dict[str, Kind]:
        """Role → stage of a kind."""
        return {role: stage for role, stage in self.roles.items() if isinstance(stage, kind)}

    def role_of(self, stage: Stage) -> str:
        """The first role of a stage."""
        return next(role for role, one in self.roles.items() if one.fingerprint == stage.fingerprint)

    def check(self) -> None:
        """Raise ValueError, naming the setting as it was typed, for what one of the stages refuses."""
        for role, stage in self.roles.items():
            with self.naming(role):
                stage.check()

    def check_corpus(self, corpus: Corpus) -> None:
        """Raise ValueError, as `check` does, for what a stage refuses beside this corpus."""
        for role, stage in self.roles.items():
            with self.naming(role):
                stage.check_corpus(corpus)

    @contextmanager
    def naming(self, role: str) -> Iterator[None]:
        """Put the setting, as it was typed, where a stage's message begins with one of its fields."""
        try:
            yield
        except ValueError as error:
            found = re.match(r"(\w+)(?=[=.:])", str(error))
            typed = found and self.typed.get(role, {}).get(found[1])
            if not found or not typed:
                raise
            raise type(error)(typed + str(error)[found.end() :]) from error
