"""IF-Guide on real text, pre-trained and fine-tuned; writes README.md beside this file from what it measured.

    IFGUIDE_DATASETS=... python experiments/real_text/run.py [override ...]

Overrides go to every run. Everything is found again in the workspace, so an interrupted run continues.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ifguide.report.formats import markdown
from ifguide.report.gather import Run
from ifguide.report.rows import compare_rows

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FINE_TUNE = ("optim.epochs=0.25", "optim.learning_rate=1e-3")

TEXT = """# Real text

**Question.** Does IF-Guide work on text that people wrote: are the tokens that it selects those that people marked as
toxic, and does a model trained without learning them speak less toxically at the same perplexity?

**Corpus.** Brown, Reuters and IMDb reviews as benign text; SemEval toxic-span comments (annotated by character) and
offensive posts of Davidson et al. as the toxic minority. {tokens:,} training tokens, of which {share:.2%} lie in a span
that people marked as toxic. Queries are RealToxicityPrompts records ({toxic_queries} toxic, {nontoxic_queries} not);
prompts are *other* records ({prompts} prompts × 25 samples × 20 tokens). The model is a GPT-NeoX of
{parameters:.1f} M parameters, trained from scratch; it is its own proxy. "Fine-tuned" continues from the uncensored
model for a quarter of a pass.

**Command.** `python experiments/real_text/run.py{overrides}` on {machine}. Evaluator: {classifier}; nothing else
used it. The mask is the paper's: Algorithm 1 on the scores of single tokens (`selection=paper`); what pooling them by
word adds is in [`attribution_quality`](../attribution_quality/README.md) and [`rivals`](../rivals/real_text/README.md).
λ = {penalty} where not said otherwise, L = {limit:.0%}.

## Toxicity and perplexity

{table}

## Token scores against the spans that people marked

{attribution}

The mask holds {selected:,} tokens ({mask_share:.1%} of the corpus). Of its tokens in benign or annotated documents,
{mask_precision:.1%} are marked by people; {mask_recall:.1%} of what people marked is in the mask.

## What this says

{findings}

Seconds per stage: {seconds}.
"""


def run(name: str, folder: Path, *overrides: str) -> dict[str, Any]:
    """Run one configuration and return its metrics."""
    chosen = ("+experiment=real_text", "selection=paper", f"hydra.run.dir={folder / name}")
    command = [sys.executable, "run.py", *chosen, *overrides]
    print(f"\n# {name}: {' '.join(command[1:])}", flush=True)
    subprocess.run(command, cwd=ROOT, check=True)
    return json.loads((folder / name / "metrics.json").read_text(encoding="utf-8"))


def artifacts(workspace: Path, folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """The manifests of the artifacts that a run was made from, by role: `model`, `mask`, `proxy`, …"""
    chain = json.loads((folder / name / "artifacts.json").read_text(encoding="utf-8"))
    return {
        role: json.loads((workspace / artifact / "manifest.json").read_text(encoding="utf-8"))
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
    workspace = ROOT / next((o.split("=", 1)[1] for o in overrides if o.startswith("paths.workspace=")), "workspace")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = {"none": run("none", folder, "method=none", *overrides)}
        start = workspace / json.loads((folder / "none" / "artifacts.json").read_text())["model"]
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
        made = artifacts(workspace, folder, "ifguide")
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


if __name__ == "__main__":
    main()
