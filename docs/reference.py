"""Write `docs/reference.md` from `conf/`: every option of every group, with its settings and their comments.

python docs/reference.py [--check]
"""

import sys
from itertools import takewhile
from pathlib import Path

CONF = Path(__file__).parents[1] / "conf"
PAGE = Path(__file__).with_name("reference.md")
GROUPS = {  # what is chosen in each group; a group that is not named here comes last
    "method": "A row of the results table: a method overrides other groups.",
    "data": "The training corpus and how it becomes token blocks.",
    "queries": "What the behaviour is: prompts with continuations that show it, and with continuations that do not. "
    "Mounted at `behaviours.<name>`: `queries@behaviours.toxicity=local`.",
    "model": "The target model; `model@proxy=…` chooses the proxy.",
    "optim": "How the target is trained; `optim@proxy_optim=…` is for the proxy.",
    "optim/optimizer": "The optimiser: a class of `torch.optim` with its arguments. "
    "Chosen as `optim/optimizer=sgd`; of the proxy as `optim/optimizer@proxy_optim.optimizer=sgd`.",
    "optim/schedule": "The course of the learning rate: `optim/schedule=linear`.",
    "curvature": "The approximation of the Gauss–Newton Hessian H in the direction.",
    "scorer": "How the score of every token is computed: its influence, or what a classifier or a probe finds.",
    "student": "Amortised scoring: exact scores of a share of the blocks, and a student of them for all blocks.",
    "pooling": "What scores of the same word or token type have in common, in place of each single score.",
    "selection": "Which tokens the mask marks.",
    "objective": "The loss on token blocks with a mask.",
    "filter": "Which documents the target is not trained on.",
    "post_training": "What happens to the target after its training.",
    "decoding": "How continuations are sampled.",
    "labelled": "Labelled texts that reward models, experts, probes and classifiers learn from.",
    "pairs": "Preference pairs that `post_training=dpo` learns from.",
    "task": "Prompts to continue at evaluation. Mounted at `tasks.<name>`: `+task@tasks.bold=bold`.",
    "classifier": "Who judges the continuations. Mounted at `classifiers.<name>`: "
    "`+classifier@classifiers.implicit=toxigen_roberta`.",
    "utility": "What else is measured of the trained model. Mounted at `utilities.<name>`: "
    "`+utility@utilities.lambada=lambada`.",
    "judge": "A local language model that compares continuations, for win rates in reports.",
    "trainer": "Where and how a run is computed.",
    "logger": "Where training curves go.",
    "callbacks": "What watches the target's training.",
    "paths": "Where files lie.",
    "tuning": "Settings that suit each method on a text: `tuning=real_text`.",
    "experiment": "Whole settings, added as `+experiment=name`; they win over the defaults.",
    "debug": "Configurations for tests, added as `+debug=name`.",
    "hydra/launcher": "Where the rows of a sweep are started: presets over Hydra's plugins, which are installed apart.",
}
HEAD = """<!-- generated: python docs/reference.py -->
# Configuration

Every group is a folder of `conf/`, every option a file in it: `python run.py group=option group.setting=value`.
`python run.py --cfg job` prints what a command line comes to. A setting with `_target_` is a class or function; its
other keys are that one's arguments.

"""


def main() -> None:
    page = reference()
    if "--check" not in sys.argv:
        PAGE.write_text(page, encoding="utf-8")
    elif PAGE.read_text("utf-8") != page:
        sys.exit(f"{PAGE.name} is out of date: python docs/reference.py")


def reference() -> str:
    folders = sorted({str(path.parent.relative_to(CONF)) for path in CONF.rglob("*.yaml")} - {"."})
    order = [group for group in GROUPS if group in folders] + [group for group in folders if group not in GROUPS]
    defaults = f"## Defaults\n\n`conf/config.yaml`:\n\n{fenced((CONF / 'config.yaml').read_text('utf-8'))}"
    return HEAD + "\n".join([defaults, *map(group_section, order)])


def group_section(group: str) -> str:
    options = {path.stem: path.read_text("utf-8") for path in sorted((CONF / group).glob("*.yaml"))}
    rows = [f"| `{name}` | {summary(text)} |" for name, text in options.items()]
    table = "\n".join(["| option | what it is |", "|---|---|", *rows])
    details = [
        f"<details markdown><summary><code>{group}={name}</code></summary>\n\n{fenced(text)}\n</details>\n"
        for name, text in options.items()
        if text.strip() != "{}"
    ]
    return "\n".join([f"## `{group}`\n\n{GROUPS.get(group, '')}\n\n{table}\n", *details])


def summary(text: str) -> str:
    """The comment that an option begins with."""
    lines = [line for line in text.splitlines() if line != "# @package _global_"]
    comment = [line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines)]
    return " ".join(comment).replace("|", "\\|") or ("nothing" if text.strip() == "{}" else "")


def fenced(text: str) -> str:
    return f"```yaml\n{text.rstrip()}\n```\n"


if __name__ == "__main__":
    main()
