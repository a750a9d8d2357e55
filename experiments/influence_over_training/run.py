"""How early in training do token scores settle? Scores at 25, 50 and 75 % of training against those at its end.

    python experiments/influence_over_training/run.py [override ...]

Trains the built-in sample's uncensored model (or what the overrides say) with `callbacks=influence` and writes
README.md.
"""

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from hydra import compose, initialize_config_dir

from ifguide.workspace import read_manifest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def main() -> None:
    overrides = [
        "method=none",
        "compare_with=null",
        "stage=model",
        "callbacks=influence",
        "pooling=none",
        *sys.argv[1:],
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        epochs = compose("config", overrides=overrides).optim.epochs
    with tempfile.TemporaryDirectory() as folder:
        command = ["run.py", *overrides, f"callbacks.influence.every_epochs={epochs / 4}", f"hydra.run.dir={folder}"]
        done = subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    model = Path(done.stdout.strip().splitlines()[-1])
    points = json.loads((model / "influence" / "summary.json").read_text(encoding="utf-8"))
    last = points[-1]["step"]
    facts = read_manifest(model)["facts"]
    rows = "\n".join(
        f"| {point['step']} | {point['step'] / last:.0%} | {point['spearman']:.3f} | {point['mask_jaccard']:.3f} |"
        for point in points
    )
    shown = [argument for argument in sys.argv[1:] if not argument.startswith(("paths.", "trainer."))]
    text = f"""# Influence over training

**Question.** How early in training do token scores settle, so that a mask could be taken from a model that is not yet
trained, or be updated as it learns?

**Command.** `{" ".join(["python experiments/influence_over_training/run.py", *shown])}` on CPU
({platform.machine()}): {facts["parameters"]:,} parameters, {facts["steps"]} steps, {facts["tokens"]:,} tokens. At each
point curvature, direction, scores of all training blocks and mask are computed anew with the model as it is.

| step | of training | Spearman correlation with the end | mask Jaccard index with the end |
|---|---|---|---|
{rows}
"""
    (HERE / "README.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
