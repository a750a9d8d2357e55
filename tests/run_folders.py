"""Run folders and a workspace as `run.py` leaves them, made up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

from ifguide.corpus.documents import Prompt
from ifguide.decoding.generation import GENERATIONS_FILE, save_generations
from ifguide.evaluation.fluency import UnitLosses, perplexity_metrics
from ifguide.evaluation.toxicity import INTERVALS, prompt_metrics
from ifguide.report.table import usual_columns
from ifguide.report.wording import TOXICITY

COLUMNS = usual_columns("toxicity", TOXICITY)
HEADLINE = COLUMNS[0]
WORDS = "the tap drips and a neighbour came by with bread while rain fell on the green garden all morning".split()


def prompts(count: int) -> list[Prompt]:
    return [
        Prompt(f"Letter {i} says that", subset="toxic" if i % 3 == 0 else "nontoxic", record=f"letters:{i}")
        for i in range(count)
    ]


def write_run(
    folder: Path, method: str, seed: int, probabilities_PS=None, *, workspace: Path, overrides=(), config=None,
    perplexity: float = 12.0, texts=None, failure: str | None = None, categories=None, task: str = "toxicity",
    unfinished: bool = False, documents: int = 0, labelled: bool = True, facts=None, steered: bool = False,
) -> Path:  # fmt: skip
    """One run's folder; its values go into a workspace, its settings into `.hydra`.

    With `documents`, perplexity is known document by document; without, it is recorded with an interval of ± 1. A
    steered run has an auxiliary model and no perplexity.
    """
    composed = {"seed": seed, "stage": "evaluate", "paths": {"workspace": str(workspace)}, **(config or {})}
    hydra = {"hydra": {"runtime": {"choices": {"method": method, "model": "tiny"}, "cwd": str(folder)}}}
    (folder / ".hydra").mkdir(parents=True)
    for name, content in (
        ("config", composed),
        ("overrides", [f"method={method}", f"seed={seed}", *overrides]),
        ("hydra", hydra),
    ):
        (folder / ".hydra" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    if failure is not None:
        (folder / "failure.json").write_text(json.dumps({"error": "ValueError", "message": failure}))
    if failure is not None or unfinished:
        return folder
    values = np.asarray(probabilities_PS, dtype=float)
    asked = prompts(len(values))
    name = f"{folder.parent.name}-{folder.name}-{method}"
    role = f"generations.{task}"
    kinds = ["evaluation", role, "model", *["perplexity"] * bool(documents), *["auxiliary.reward"] * steered]
    artifacts = {kind: workspace / f"{kind.split('.')[0]}-{name}" for kind in kinds}
    for place in artifacts.values():
        place.mkdir(parents=True)
    archive = artifacts["evaluation"] / f"probabilities-{task}.npz"
    np.savez(archive, toxicity=values, **(categories or {}))
    rng = np.random.default_rng(seed)
    texts = texts or [[" " + " ".join(rng.choice(WORDS, 8)) for _ in row] for row in values]
    save_generations(artifacts[role] / GENERATIONS_FILE, asked, texts)
    metrics = {
        task: toxicity(values, np.array([prompt.subset for prompt in asked])),
        "perplexity": {"benign": {"perplexity": perplexity, "perplexity_interval": [perplexity - 1, perplexity + 1]}},
    }
    if documents:
        losses = document_losses(perplexity, documents, seed, labelled=labelled)
        losses.save(artifacts["perplexity"])
        metrics["perplexity"] = perplexity_metrics(losses)
    if steered:
        del metrics["perplexity"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    found = {"generations": {task: role}, "judged": {task: {"task": task, "classifier": "toxicity"}},
             "behaviours": ["toxicity"], **(facts or {})}  # fmt: skip
    write_facts(folder, artifacts=artifacts, name=method, seed=seed, **found)
    return folder


def document_losses(perplexity: float, documents: int, seed: int, *, labelled: bool = True) -> UnitLosses:
    """Documents that are hard or easy for every model alike, a third of them toxic; in all of this perplexity."""
    rng = np.random.default_rng(7)
    tokens = rng.integers(20, 60, documents).astype(float)
    rates = np.log(perplexity) + rng.normal(scale=0.4, size=documents)
    rates += np.random.default_rng([seed, 1]).normal(scale=0.01, size=documents)
    rates += np.log(perplexity) - (rates * tokens).sum() / tokens.sum()
    places = np.arange(documents)
    labels = np.where(places % 3 == 0, 1, 0) if labelled else np.full(documents, -1)
    return UnitLosses(rates * tokens, tokens, np.zeros(documents, int), places, labels)


def write_facts(folder: Path, *, artifacts, stage="evaluate", **facts) -> None:
    places = {role: str(place) for role, place in artifacts.items()}
    (folder / "run.json").write_text(json.dumps({"stage": stage, "notes": [], "artifacts": places, **facts}))


def toxicity(values_PS: np.ndarray, subsets: np.ndarray) -> dict:
    metrics: dict = {}
    for subset in ("all", "toxic", "nontoxic"):
        members = np.ones(len(subsets), bool) if subset == "all" else subsets == subset
        metrics[subset] = {"prompts": int(members.sum())}
        for name, values in prompt_metrics(values_PS[members]).items():
            metrics[subset] |= {name: float(values.mean()), f"{name}_interval": INTERVALS[name](values[None])}
    return metrics


def beta(rng: np.random.Generator, mean: float, prompts: int = 60, samples: int = 5) -> np.ndarray:
    """Probabilities whose prompts differ."""
    difficulty = rng.beta(2, 2, size=(prompts, 1))
    return np.clip(rng.beta(1.2, 1.2 / mean, size=(prompts, samples)) * (0.5 + difficulty), 0, 1)


def write_tokens(folder: Path, words: list[str], documents: int = 12, behaviour: str = "toxicity") -> None:
    """The documents of a token page."""
    rng = np.random.default_rng(0)
    cards = []
    for rank in range(1, documents + 1):
        tokens = [f" {word}" for word in rng.choice([*WORDS, *words], 60)]
        scores = np.round(rng.normal(size=60), 3).tolist()
        cards.append(
            {"name": f"sample, record {rank}", "rank": rank, "tokens": tokens, "scores": scores,
             "selected": [score > 1.3 for score in scores], "annotated": None, "label": "toxic"}
        )  # fmt: skip
    page = {"threshold": 1.3, "summary": {"tokens selected": "70 of 720 (9.7 %)"}, "documents": cards}
    (folder / f"tokens-{behaviour}.json").write_text(json.dumps(page))


def write_sweep(folder: Path, *, seeds=(1, 2, 3), methods=(("none", 0.9, 12.0), ("word_filter", 0.5, 13.5),
                ("ifguide", 0.25, 12.4), ("dpo", 0.3, 16.0))) -> Path:  # fmt: skip
    """A sweep of methods and seeds, with a failed and an unfinished job at its end."""
    sweep, workspace, job = folder / "sweep", folder / "workspace", 0
    for method, mean, perplexity in methods:
        for seed in seeds:
            rng = np.random.default_rng([seed, job])
            values = beta(rng, mean)
            categories = {name: values * share for name, share in
                          (("insult", 0.95), ("obscene", 0.8), ("threat", 0.6), ("identity_attack", 0.55))}  # fmt: skip
            run = write_run(
                sweep / str(job), method, seed, values, workspace=workspace, perplexity=perplexity + 0.2 * seed,
                categories=categories,
            )  # fmt: skip
            if method == "ifguide":
                write_tokens(run, ["rotten", "</script>"])
            job += 1
    write_run(
        sweep / str(job), "dpo", 4, workspace=workspace,
        failure="the training loss is nan at step 40. Use a smaller optim.learning_rate",
    )  # fmt: skip
    write_run(sweep / str(job + 1), "rad", 1, workspace=workspace, unfinished=True)
    return sweep
