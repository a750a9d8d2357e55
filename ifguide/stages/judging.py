"""What a language model says of two runs' generations."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ifguide.decoding.generation import GENERATIONS_FILE, load_generations
from ifguide.evaluation.judge import Judge
from ifguide.stages.stage import Inputs, Stage, made_from, setting, speed
from ifguide.training.trainer import TrainerSettings
from ifguide.workspace import read_json, write_json

JUDGEMENTS_FILE = "judgements.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Judgements(Stage):
    """Which of two runs' continuations a judge prefers, in both orders (`ifguide.evaluation.judge`)."""

    name: ClassVar[str] = "judgements"
    version: ClassVar[int] = 1

    first: Stage = made_from()
    second: Stage = made_from()
    judge: Judge = setting()
    trainer: TrainerSettings = speed()

    def build(self, folder: Path, inputs: Inputs) -> None:
        rows = [load_generations(inputs[name] / GENERATIONS_FILE) for name in ("first", "second")]
        write_json(folder / JUDGEMENTS_FILE, self.judge(rows[0], rows[1], self.trainer.device))


def read_judgements(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_json(folder / JUDGEMENTS_FILE)
    return found
