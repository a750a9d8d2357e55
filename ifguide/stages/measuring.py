"""What is measured of a row: the stages of an evaluation."""

from typing import TYPE_CHECKING, Any

from ifguide.decoding import ModelDecoding
from ifguide.evaluation.task import check_names, measurement_names
from ifguide.stages import rules
from ifguide.stages.evaluation import Attribution, Evaluation, Fluency, Toxicity, Utility
from ifguide.stages.generation import Generations
from ifguide.stages.perplexity import Perplexity
from ifguide.stages.stage import Stage

if TYPE_CHECKING:
    from ifguide.stages.planner import Planner

# stage that an auxiliary model starts from → its settings
STARTS = {"uncensored": "model", "proxy": "proxy", "model": "model"}


def measured(planner: "Planner") -> Stage:
    """The evaluation of the model of a configuration, with all its measurements."""
    tasks, classifiers, utilities = (planner.part(key) or {} for key in ("tasks", "classifiers", "utilities"))
    check_names(list(tasks), list(classifiers), list(utilities))
    rules.check_judges(list(planner.behaviours), list(classifiers))
    model, auxiliaries, settings = planner.model, planner.auxiliaries(), planner.cfg.evaluation
    loaded = {"data": planner.text, "model": model, "loading": planner.part("model"), **planner.placed}
    computed = {**planner.placed, "batch_size": settings.batch_size}
    starts = {STARTS[one.continues] for one in planner.part("decoding").auxiliaries.values()}
    auxiliary_loading = planner.part(next(iter(starts), "model"))
    judges = {name: planner.classifier(f"classifiers.{name}", f"classifier.{name}") for name in classifiers}
    written = {
        name: planner.add(
            f"generations.{name}", Generations, {"task": f"tasks.{name}", "dtype": "evaluation.dtype"}, task=task,
            auxiliaries=auxiliaries, decoding=planner.part("decoding"), seed=planner.cfg.seed, dtype=settings.dtype,
            auxiliary_loading=auxiliary_loading, **loaded,
        )
        for name, task in tasks.items()
    }  # fmt: skip
    toxicity = {
        name: planner.add(f"judged.{name}", Toxicity, generations=written[task], **judges[judge])
        for name, (task, judge) in measurement_names(tasks, classifiers).items()
    }
    names = {"pretrained": "reference_model", "split": "perplexity_split", "batch_size": "batch_size", "dtype": "dtype"}
    typed = {field: f"evaluation.{name}" for field, name in names.items()}
    fluency = {
        name: planner.add(
            f"fluency.{name}", Fluency, typed, generations=texts, pretrained=settings.reference_model,
            **computed,
        )
        for name, texts in written.items()
    }  # fmt: skip
    others: dict[str, Stage] = {}
    decoding = planner.part("decoding")
    changes_model = isinstance(decoding, ModelDecoding)
    if changes_model or not auxiliaries:  # the model's own perplexity says nothing about another decoder that steers it
        steered = {"decoding": decoding, "auxiliaries": auxiliaries} if changes_model else {}
        read = {"split": settings.perplexity_split, "dtype": settings.dtype, **loaded, **computed}
        others["perplexity"] = planner.add("perplexity", Perplexity, typed, **read, **steered)
    for name, utility in utilities.items():
        key, judging = f"utilities.{name}", rules.judge_of(name, utility, judges)
        others[name] = planner.add(f"utility.{name}", Utility, {"utility": key}, utility=utility, **loaded | judging)
    if planner.part("objective").uses_mask and planner.cfg.paths.mask is None:
        shared: dict[str, Any] = {"data": planner.data, "scores": planner.pooled, "mask": planner.mask}
        queries = next(iter(planner.behaviours.values()))  # of the first behaviour, which the corpus's spans are of
        others["attribution"] = planner.add("attribution", Attribution, queries=queries, **shared)
    filtered = None if planner.part("filter") is None else planner.filtered
    return planner.add("evaluation", Evaluation, toxicity=toxicity, fluency=fluency, others=others, filtered=filtered)
