"""IF-Guide on real text, pre-trained and fine-tuned.

    IFGUIDE_DATASETS=... python experiments/real_text/run.py [render=true] [override ...]

Sweeps `+experiment=real_text`, then `+experiment=real_text_tuned` from its uncensored model.
"""

from dataclasses import replace
from typing import Any

<<<<<<< HEAD
from ifguide.report.experiment import Experiment, figures_of, publish
from ifguide.report.formats import markdown
from ifguide.report.rows import compare_rows
from ifguide.workspace import read_manifest
=======
from ifguide.report.formats import markdown
from ifguide.report.gather import Run
from ifguide.report.rows import compare_rows
>>>>>>> main

TUNED = "none, fine-tuned"


<<<<<<< HEAD
def measure(experiment: Experiment) -> dict[str, Any]:
    paper = "selection=paper"
    none, ours = experiment.sweep("trained", "+experiment=real_text", paper, "method=none,ifguide")
    start = (f"start={none.artifacts['model']}", "optim.epochs=0.25", "tasks.toxicity.prompts.limit=300")
    tuned = experiment.sweep("tuned", "+experiment=real_text_tuned", paper, *start, "method=none,ifguide")
    stronger = experiment.run("stronger", "+experiment=real_text_tuned", paper, *start, "objective.penalty=1")
    runs = {"none": none, "IF-Guide": ours, TUNED: tuned[0], "IF-Guide, fine-tuned": tuned[1],
            "IF-Guide λ = 1, fine-tuned": stronger}  # fmt: skip
    if problems := [f"{name}: {run.problem}" for name, run in runs.items() if run.metrics is None]:
        raise SystemExit(f"error: {'; '.join(problems)}")
    comparison = compare_rows([replace(run, choices={"method": name}) for name, run in runs.items()], by=["method"])
    rows = {name: run.metrics or {} for name, run in runs.items()}
    made = {role: read_manifest(path) for role, path in ours.artifacts.items()}
    return {
        "corpus": made["data"]["facts"]["train"],
        "queries": made["direction.toxicity"]["facts"],
        "prompts": rows["none"]["toxicity"]["all"]["prompts"],
        "parameters": made["model"]["facts"]["parameters"],
        "classifier": made["classifier.toxicity"]["facts"]["name"],
        "penalty": ours.config["objective"]["penalty"],
        "limit": made["mask"]["settings"]["selection"]["limit"],
        "selected": made["mask"]["facts"]["selected"],
        "table": markdown(comparison),
        "attribution": rows["IF-Guide"]["attribution"]["all"],
        "pairs": [
            {
                "before": before,
                "after": after,
                "toxic_fraction": [rows[name]["toxicity"]["toxic"]["toxic_fraction"] for name in (before, after)],
                "perplexity": [rows[name]["perplexity"]["benign"]["perplexity"] for name in (before, after)],
            }
            for before, after in [("none", "IF-Guide"), *((TUNED, name) for name in list(runs)[3:])]
        ],
        "seconds": {role: manifest["seconds"] for role, manifest in made.items()},
        "figures": figures_of(comparison),
    }


=======
def run(name: str, folder: Path, *overrides: str) -> dict[str, Any]:
    """Run one configuration and return its metrics."""
    chosen = ("+experiment=real_text", "selection=paper", f"hydra.run.dir={folder / name}")
    command = [sys.executable, "run.py", *chosen, *overrides]
    print(f"\n# {name}: {' '.join(command[1:])}", flush=True)
    subprocess.run(command, cwd=ROOT, check=True)
    return json.loads((folder / name / "metrics.json").read_text(encoding="utf-8"))


def artifacts(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """The manifests of the artifacts that a run was made from, by role: `model`, `mask`, `proxy`, …"""
    chain = json.loads((folder / name / "run.json").read_text(encoding="utf-8"))["artifacts"]
    return {
        role: json.loads((Path(artifact) / "manifest.json").read_text(encoding="utf-8"))
        for role, artifact in chain.items()
    }


def findings(rows: dict[str, dict], attribution: dict[str, float]) -> str:
    """Sentences that only state comparisons of the measured numbers."""
    lines = []
    tuned = "none, fine-tuned"
    pairs = (("none", "IF-Guide"), (tuned, "IF-Guide, fine-tuned"), (tuned, "IF-Guide λ = 1, fine-tuned"))
    for base, ours in pairs:
        before, after = (rows[name]["toxicity"]["toxic"]["toxic_fraction"] for name in (base, ours))
        ppl = [rows[name]["perplexity"]["benign"]["perplexity"] for name in (base, ours)]
        factor = f"a factor of {before / after:.1f}" if after else "to nothing"
        lines.append(
            f"- {ours} against {base}: toxic fraction on toxic prompts {before:.3f} → {after:.3f} ({factor}), benign "
            f"perplexity {ppl[0]:.1f} → {ppl[1]:.1f} ({ppl[1] / ppl[0] - 1:+.1%})."
        )
    score, words = attribution["roc_auc"], attribution["word_list_roc_auc"]
    verdict = "**below** the word list's" if score < words else "above the word list's"
    lines.append(
        f"- The scores' ROC AUC against human spans is {score:.3f}, {verdict} {words:.3f}: single exact scores are "
        "noisy on real text, and people marked mostly single words."
    )
    return "\n".join(lines)


def main() -> None:
    overrides = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = {"none": run("none", folder, "method=none", *overrides)}
        start = json.loads((folder / "none" / "run.json").read_text())["artifacts"]["model"]
        rows["IF-Guide"] = run("ifguide", folder, "compare_with=null", *overrides)
        rows["none, fine-tuned"] = run(
            "none_tuned", folder, "method=none", f"model.pretrained={start}", *overrides, *FINE_TUNE
        )
        rows["IF-Guide, fine-tuned"] = run(
            "ifguide_tuned", folder, "compare_with=null", f"model.pretrained={start}", *overrides, *FINE_TUNE
        )
        rows["IF-Guide λ = 1, fine-tuned"] = run(
            "paper_tuned", folder, "compare_with=null", "objective.penalty=1", f"model.pretrained={start}", *overrides,
            *FINE_TUNE,
        )  # fmt: skip
        made = artifacts(folder, "ifguide")
    attribution = rows["IF-Guide"]["attribution"]["all"]
    shares = [name.removeprefix("precision_at_") for name in attribution if name.startswith("precision_at_")]
    header = ["ROC AUC", *(f"precision at {float(share):.1%}" for share in shares)]
    lines = [f"| | {' | '.join(header)} |", "|---" * (len(header) + 1) + "|"]
    for label, prefix in (("IF-Guide scores (`jvp`, single tokens)", ""), ("word list from the queries", "word_list_")):
        cells = [attribution[f"{prefix}roc_auc"], *(attribution[f"{prefix}precision_at_{share}"] for share in shares)]
        lines.append(f"| {label} | {' | '.join(f'{cell:.3f}' for cell in cells)} |")
    chance = f" {attribution['annotated_share']:.3f} |" * len(shares)
    lines.append(f"| chance | 0.500 |{chance}")
    facts, mask, direction = made["data"]["facts"]["train"], made["mask"]["facts"], made["direction"]["facts"]
    measured = [Run(name, choices={"method": name}, metrics=row) for name, row in rows.items()]
    text = TEXT.format(
        tokens=facts["tokens"],
        share=facts["annotated_share"],
        toxic_queries=direction["toxic_queries"],
        nontoxic_queries=direction["nontoxic_queries"],
        prompts=rows["none"]["toxicity"]["all"]["prompts"],
        parameters=made["model"]["facts"]["parameters"] / 1e6,
        overrides="".join(f" {o}" for o in overrides if not o.startswith(("paths.", "trainer."))),
        machine=f"{os.cpu_count()} CPU cores ({platform.machine()})",
        classifier=made["evaluation"]["settings"]["classifier"],
        penalty=made["model"]["settings"]["objective"]["penalty"],
        limit=made["mask"]["settings"]["limit"],
        table=markdown(compare_rows(measured, reference=None)),
        attribution="\n".join(lines),
        selected=mask["selected"],
        mask_share=mask["selected"] / facts["tokens"],
        mask_precision=attribution["mask_precision"],
        mask_recall=attribution["mask_recall"],
        findings=findings(rows, attribution),
        seconds=", ".join(f"{role} {manifest['seconds']:.0f}" for role, manifest in made.items()),
    )
    (HERE / "README.md").write_text(text, encoding="utf-8")
    print(text)


>>>>>>> main
if __name__ == "__main__":
    publish(__file__, measure)
