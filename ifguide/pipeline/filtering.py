"""The stages of a filter: scores of documents → the training split without those that are dropped."""

from functools import cache, cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from ifguide.classifiers import Classifier
from ifguide.corpus.filters import InfluenceFilter, TextFilter, filter_facts
from ifguide.corpus.repacking import document_lengths, document_sums, document_texts, write_kept, write_kept_mask
from ifguide.influence.store import open_scores
from ifguide.pipeline.base import MASK_FILE
from ifguide.pipeline.influence import InfluenceStages
from ifguide.workspace import Artifact

DOCUMENT_SCORES_FILE = "document_scores.npy"
DROPPED_FILE = "dropped.npy"


class FilterStages(InfluenceStages):
    """From the corpus to what the target model, and it alone, is trained on."""

    @cached_property
    def filter_judge(self) -> Classifier | None:
        """The classifier of the filter; one that is trained here is built or found first."""
        if self.filter is None or self.filter.classifier is None:
            return None
        return self.make_classifier(self.cfg.filter.classifier, role="filter's classifier")

    @property
    def judges(self) -> list[str]:
        """Names of the classifiers that had a say in how the row was made."""
        return [] if self.filter_judge is None else [self.filter_judge.name]

    @cache  # noqa: B019
    def document_scores(self) -> Artifact:
        """What the filter thinks of each training document, [scores a document, documents]."""
        data, chosen = self.data(), self.filter
        assert chosen is not None
        inputs = {"data": data}
        settings = self._settings("filter", without=(*chosen.rule, "classifier"))
        if isinstance(chosen, InfluenceFilter):
            inputs |= {"scores": self.scores(chosen.contrast)}
        elif chosen.uses_queries:
            settings |= {"behaviours": self._settings("behaviours")}
        if self.filter_judge is not None:
            settings |= {"classifier": self._settings("filter.classifier", without=("device", "batch_size"))}
            settings |= {"name": self.filter_judge.name}
            inputs |= self._classifier_inputs(self.filter_judge)

        def build(directory: Path) -> None:
            split = self.corpus.split("train")
            if "scores" in inputs:
                scores = np.stack([document_sums(column, split) for column in open_scores(inputs["scores"].path)])
            else:
                texts = document_texts(split, self.corpus.tokenizer)
                queries = list(self.queries.values()) if chosen.uses_queries else []
                scores = cast(TextFilter, chosen).scores(texts, queries, self.filter_judge)
            np.save(directory / DOCUMENT_SCORES_FILE, scores)

        role = "document scores"
        return self._build("document_scores", 1, role=role, settings=settings, inputs=inputs, builder=build)

    @cache  # noqa: B019
    def filtered(self) -> Artifact:
        """The training split that the filter leaves; the whole corpus where there is no filter."""
        data, chosen = self.data(), self.filter
        if chosen is None:
            return data
        judged = self.document_scores()

        def build(directory: Path) -> dict[str, Any]:
            split = self.corpus.split("train")
            dropped = chosen.drop(np.load(judged.path / DOCUMENT_SCORES_FILE))
            np.save(directory / DROPPED_FILE, dropped)
            facts = filter_facts(dropped, document_lengths(split), np.asarray(split.documents["label"]))
            every = facts["all"]
            print(
                f"The filter drops {every['documents_dropped']:,} of {every['documents']:,} training documents, "
                f"{every['tokens_dropped_share']:.1%} of the tokens"
            )
            return {"train": write_kept(directory, self.corpus, dropped), "filter": facts}

        settings = {key: value for key, value in self._settings("filter").items() if key in chosen.rule}
        inputs = {"data": data, "document scores": judged}
        return self._build("filtered", 1, settings=settings, inputs=inputs, builder=build)

    @cache  # noqa: B019
    def filtered_mask(self) -> Artifact:
        """The mask of what the filter leaves: the selection is made on the whole corpus, and follows its tokens."""
        mask, filtered, data = self.train_mask(), self.filtered(), self.data()

        def build(directory: Path) -> dict[str, Any]:
            dropped = np.load(filtered.path / DROPPED_FILE)
            return {"selected": write_kept_mask(directory / MASK_FILE, mask, self.corpus.split("train"), dropped)}

        inputs = {"data": data, "mask": self.mask(), "filtered": filtered}
        return self._build("filtered_mask", 1, role="filtered mask", settings={}, inputs=inputs, builder=build)
