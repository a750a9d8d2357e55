"""What must hold between stages, and what a reader of a row must know: functions of a plan."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ifguide.checks import argument
from ifguide.classifiers.base import TOXICITY, ClassifierSettings
from ifguide.corpus.blocks import Corpus
from ifguide.corpus.documents import LabelledText, Prompt, Query
from ifguide.corpus.pairs import check_pairs_disjoint
from ifguide.corpus.queries import check_disjoint, check_texts_disjoint, labels_of
from ifguide.decoding.generation import encode_prompts
from ifguide.evaluation.task import RESERVED_NAMES, measurement_names
from ifguide.methods.conditional import Conditional
from ifguide.opening import check_context, context_length
from ifguide.stages.auxiliary import AuxiliaryModel, PostTrained
from ifguide.stages.classified import FittedProbe, JudgedTokens
from ifguide.stages.classifiers import FittedClassifier
from ifguide.stages.data import Data
from ifguide.stages.evaluation import Utility
from ifguide.stages.filtering import JudgedDocuments
from ifguide.stages.generation import Generations
from ifguide.stages.influence import Direction
from ifguide.stages.lancet import Corrected
from ifguide.stages.policy_gradient import PolicyTrained
from ifguide.stages.sampling import Samples
from ifguide.stages.stage import Existing, Plan
from ifguide.stages.tagging import Tagged
from ifguide.stages.training import TrainedModel
from ifguide.training.auxiliary import tokenizer_of
from ifguide.workspace import ArtifactError, file_signature, find_files, fingerprint_of

SMALL_VOCABULARY = 512  # any: how long a context is does not depend on it
AUXILIARY = "auxiliary."
MAKING = tuple(f"classifier.{group}" for group in ("filter", "scorer", "post_training", "decoding"))


def check_plan(plan: Plan) -> None:
    """Raise ValueError where what a row learns from is what it is evaluated on, or a mask is another corpus's."""
    evaluated = [stage.task.prompts for stage in plan.named(Generations).values()]
    learned = learned_texts(plan) if evaluated else []
    for prompts in evaluated:
        for queries in used_queries(plan):
            check_disjoint(queries, prompts)
        for name, texts in learned:
            check_texts_disjoint(texts, prompts, name)
        for post_trained in plan.named(PostTrained).values():
            check_pairs_disjoint(post_trained.pairs, prompts)
    check_control_tokens(plan)
    check_recomputing(plan)
    data = plan.named(Data).get("data")
    for role, trained in plan.named(TrainedModel).items():
        with plan.naming(role):
            if data is not None:
                check_context(trained.model.config(SMALL_VOCABULARY, 0), data.corpus.block_length)
    for mask in plan.named(Existing).values():
        if data is not None and mask.made_of("data") != data.fingerprint:
            raise ArtifactError(
                f"paths.mask={mask.folder} was made for the corpus data-{mask.made_of('data')}, this run's is "
                f"data-{data.fingerprint}: a mask belongs to one corpus; leave paths.mask unset to make one for this"
            )


def check_recomputing(plan: Plan) -> None:
    """Raise ValueError where activations are to be computed again for what learns without dropout: transformers does so
    in training mode alone."""
    without_dropout: list[PostTrained | PolicyTrained | Corrected] = [
        *plan.named(PostTrained).values(), *plan.named(PolicyTrained).values(), *plan.named(Corrected).values(),
    ]  # fmt: skip
    if any(stage.setup.trainer.gradient_checkpointing for stage in without_dropout):
        raise ValueError(
            "trainer.gradient_checkpointing=true: this post-training learns without dropout, for which transformers "
            "recomputes nothing; set it to false, and trainer.micro_batch_size lower"
        )


def check_control_tokens(plan: Plan) -> None:
    """Raise ValueError where control tokens are trained and what comes after the training does not know them."""
    if not plan.named(Tagged):
        return
    if "trained" in plan.roles:
        raise ValueError(
            "post_training: it knows nothing of the control tokens that filter=control_tokens trains with; leave one "
            "of both out"
        )
    for generated in plan.named(Generations).values():
        if not isinstance(generated.decoding, Conditional):
            raise ValueError(
                f"decoding: {type(generated.decoding).__name__} may write the control tokens of filter=control_tokens, "
                "and its prompts do not begin with one; use decoding=conditional"
            )


def check_corpus(plan: Plan, corpus: Corpus) -> None:
    """Raise ValueError where an auxiliary model's context is too short for what is generated, or a decoder asks for
    control tokens that nothing brings.

    How long a text is in another tokenizer is only known once it is written; decoding checks that.
    """
    for generated in plan.named(Generations).values():
        if isinstance(generated.decoding, Conditional) and not plan.named(Tagged):
            with argument("decoding"):
                generated.decoding.check_tokenizer(corpus.tokenizer)
        for role, stage in plan.named(AuxiliaryModel).items():
            start = stage.training.pretrained
            vocabulary = corpus.tokenizer.get_vocab()
            if start is not None and tokenizer_of(start, corpus.tokenizer).get_vocab() != vocabulary:
                continue
            sizes = corpus.vocabulary, corpus.end_of_text
            config = stage.loading.config(*sizes, pretrained=start)
            room = context_length(generated.loading.config(*sizes))
            task = generated.task
            longest = longest_text(task.prompts, corpus, task.max_new_tokens, room)
            check_context(
                config, longest, "tasks: prompt + max_new_tokens", f"the {role.removeprefix(AUXILIARY)} model"
            )


def longest_text(prompts: Sequence[Prompt], corpus: Corpus, new_tokens: int, room: int) -> int:
    """Tokens of the longest prompt with its continuation, in a context of `room` tokens."""
    encoded = encode_prompts(prompts, corpus.tokenizer, room - new_tokens)
    return max(map(len, encoded), default=0) + new_tokens


def learned_texts(plan: Plan) -> list[tuple[str, list[str]]]:
    """Setting, and its labelled texts that a model, a probe or a classifier which a row is made with is trained on."""
    learners: list[AuxiliaryModel | FittedProbe] = [
        *plan.named(AuxiliaryModel).values(),
        *plan.named(FittedProbe).values(),
    ]
    found: list[tuple[str, Iterable[LabelledText]]] = [("labelled", learner.labelled) for learner in learners]
    for role, stage in plan.named(FittedClassifier).items():
        if role in MAKING:
            texts, typed = getattr(stage.classifier, "texts", {}), plan.typed[role]["classifier"]
            found += [(f"{typed}.texts.{name}", each) for name, each in texts.items()]
    return [(name, [one.text for one in texts]) for name, texts in found]


def used_queries(plan: Plan) -> list[Sequence[Query]]:
    """The queries of every behaviour that a row is made with."""
    along = [stage.queries for stage in plan.named(Direction).values()]
    read = [queries for stage in plan.named(JudgedDocuments).values() for queries in stage.behaviours.values()]
    written = [stage.prompts for stage in plan.named(Samples).values()]
    written += [stage.prompts for stage in plan.named(PolicyTrained).values()]
    continued = [
        [Query(prompt=one.text, continuation="", toxic=one.subset == "toxic", record=one.record) for one in prompts]
        for prompts in written
    ]
    return along + read + continued


def check_judges(behaviours: Sequence[str], classifiers: Sequence[str]) -> None:
    """Raise ValueError where nobody judges a behaviour: a classifier of another one would mislead."""
    for name in behaviours:
        if name not in classifiers:
            raise ValueError(
                f"behaviours.{name}: no classifier is called so, and none of another behaviour can judge it: add "
                f"+classifier@classifiers.{name}=from_queries (trained on half of its queries) or another option; "
                "stage=mask and stage=model need none"
            )


def judge_of(name: str, utility: object, judges: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The classifier of a utility that has a `judge`; nothing for any other.

    Args:
        name, utility: of the configuration.
        judges: name of a classifier → its stage, and what loads it.

    Raises:
        ValueError: there is no such classifier.
    """
    judge = getattr(utility, "judge", None)
    if judge is None:
        return {}
    if judge not in judges:
        raise ValueError(
            f"utilities.{name}.judge={judge}: no classifier is called so; classifiers: {', '.join(judges)}"
        )
    return judges[judge]


def row_facts(plan: Plan, values: Mapping[str, Any], behaviours: Mapping[str, Sequence[Query]]) -> dict[str, Any]:
    """What `run.json` says beside the artifacts.

    Args:
        plan: of the run.
        values: the resolved configuration.
        behaviours: name → its queries.
    """
    facts: dict[str, Any] = {"notes": notes(plan, values)}
    tasks = [role.removeprefix("generations.") for role in plan.named(Generations)]
    if tasks:
        names = measurement_names(tasks, list(values["classifiers"]))
        facts["generations"] = {task: f"generations.{task}" for task in tasks}
        facts["judged"] = {name: {"task": task, "classifier": judge} for name, (task, judge) in names.items()}
        facts["labels"] = {name: labels(judge, behaviours) for name, (_, judge) in names.items()}
        facts["objective"] = values["objective_metric"] or f"{tasks[0]}.all.toxic_fraction"
        for path in paths_of(facts["objective"]):
            check_objective(path, [*names, *values["utilities"], *RESERVED_NAMES])
    if "mask" in plan.roles and not isinstance(plan.roles["mask"], Existing):
        facts["behaviours"] = list(values["behaviours"])
    return facts


def labels(classifier: str, behaviours: Mapping[str, Sequence[Query]]) -> dict[str, str]:
    """The behaviour that a classifier judges, by its name or else the first, and what its two classes are called."""
    behaviour = classifier if classifier in behaviours else next(iter(behaviours), TOXICITY)
    positive, negative = labels_of(behaviour, behaviours.get(behaviour, ()))
    return {"behaviour": behaviour, "positive": positive, "negative": negative}


def paths_of(objective: str | Sequence[str]) -> list[str]:
    """The metrics that a sweeper optimises, of one path or of several."""
    return [objective] if isinstance(objective, str) else list(objective)


def check_objective(path: str, known: Sequence[str]) -> None:
    """Raise ValueError unless an objective is `name.subset.metric` of something that is measured."""
    if len(parts := path.split(".", 2)) < 3 or parts[0] not in known:
        raise ValueError(
            f"objective_metric={path}: a path into metrics.json, <name>.<subset>.<metric>, of one of {', '.join(known)}"
        )


def notes(plan: Plan, values: Mapping[str, Any]) -> list[str]:
    """What a reader of a row must know."""
    classifiers = plan.named(FittedClassifier)
    evaluating = {role: stage for role, stage in classifiers.items() if role not in MAKING}
    used = {stage.fingerprint for role, stage in classifiers.items() if role in MAKING}
    same = [role for role, stage in evaluating.items() if stage.fingerprint in used]
    names: list[ClassifierSettings] = [evaluating[role].classifier for role in same]
    found = [f"Made with a classifier that evaluates it ({one.name})." for one in names]
    others = [role.removeprefix("classifier.") for role in evaluating if role not in same]
    if shared := shared_files(plan, values, others):
        found.append(f"Made with texts that a classifier which evaluates it knows ({', '.join(shared)}).")
    tagged = plan.named(Tagged).values()
    found += [f"Prompts begin with the control token {one.filter.good}, which its tokenizer has." for one in tagged]
    is_steered = bool(tagged) or any(stage.auxiliaries for stage in plan.named(Generations).values())
    has_utilities = bool(plan.named(Utility))
    if is_steered and has_utilities:
        found.append("Utilities are those of the model without its decoder.")
    return found


def shared_files(plan: Plan, values: Mapping[str, Any], classifiers: Sequence[str]) -> list[str]:
    """Files that both the row and a classifier that evaluates it are made with."""
    used = {
        "labelled": bool(plan.named(AuxiliaryModel) or plan.named(FittedProbe)),
        "pairs": bool(plan.named(PostTrained)),
        "post_training": "classifier.post_training" in plan.roles,
        "behaviours": bool(used_queries(plan)),
        "filter": "filtered" in plan.roles,
        "scorer": bool(plan.named(JudgedTokens)),
    }
    learned = files_in([values[name] for name, is_used in used.items() if is_used])
    known = files_in([values["classifiers"][name] for name in classifiers])
    return sorted(learned[signature] for signature in learned.keys() & known.keys())


def files_in(value: Any) -> dict[str, str]:
    """Content signature → name of every file that settings read as `files`, at any depth."""
    if isinstance(value, list):
        return {signature: name for child in value for signature, name in files_in(child).items()}
    if not isinstance(value, Mapping):
        return {}
    nested = files_in(list(value.values()))
    here = find_files(value["files"]) if value.get("files") else []
    return nested | {fingerprint_of(file_signature(path)): path.name for path in here}
