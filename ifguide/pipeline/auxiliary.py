"""The stages of models that are there for another's sake, and of what happens to a model after its training."""

from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from ifguide.corpus.blocks import Corpus
from ifguide.corpus.documents import LabelledText, Pair
from ifguide.corpus.pairs import check_pairs, check_pairs_disjoint, encode_pairs
from ifguide.corpus.queries import check_texts_disjoint
from ifguide.decoding import Decoder
from ifguide.evaluation.generation import encode_prompts
from ifguide.methods.dpo import DPO, reference_log_probabilities
from ifguide.models import LoadOptions, check_context, check_pretrained, load_model
from ifguide.pipeline.filtering import FilterStages
from ifguide.pipeline.influence import UNCENSORED
from ifguide.training.auxiliary import Auxiliary, tokenizer_of
from ifguide.training.context import TrainingContext, save_trained
from ifguide.workspace import Artifact, describe

START = {"uncensored": "model", "proxy": "proxy"}  # what an auxiliary continues → its settings
REFERENCE_FILE = "reference.npy"  # [pairs, 2]: log-probabilities of the chosen and of the rejected response


class AuxiliaryStages(FilterStages):
    """Reward models and experts for decoders; post-training."""

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        generates = cfg.stage == "evaluate"
        if self.post_training is not None and cfg.stage in ("model", "evaluate"):
            self.hardware.accumulate(self.post_training.optim.batch_size)
            check_pairs(self.pairs)
            if generates:
                for task in self.tasks.values():
                    check_pairs_disjoint(self.pairs, task.prompts)
        for auxiliary in self.decoding.auxiliaries.values() if generates else ():
            self.hardware.accumulate(auxiliary.optim.batch_size)
            check_pretrained(auxiliary.pretrained, "decoding: pretrained")
            auxiliary.check(self.labelled)
            for task in self.tasks.values():
                check_texts_disjoint([labelled.text for labelled in self.labelled], task.prompts, "labelled")

    @cached_property
    def decoding(self) -> Any:
        return instantiate(self.cfg.decoding, _convert_="all")

    @cached_property
    def post_training(self) -> DPO | None:
        return instantiate(self.cfg.post_training, _convert_="all") or None

    @cached_property
    def labelled(self) -> list[LabelledText]:
        return list(instantiate(self.cfg.labelled))

    @cached_property
    def pairs(self) -> list[Pair]:
        return instantiate(self.cfg.pairs)

    @cache  # noqa: B019
    def data(self) -> Artifact:
        """The corpus; whatever learns beside the target is held against it before anything is trained."""
        artifact = super().data()
        corpus = Corpus(artifact.path)
        if self.post_training is not None and self.cfg.stage in ("model", "evaluate"):
            longest = self.post_training.max_length
            check_context(self._config("model", corpus), longest, "post_training.max_length")
            self.post_training.check(encode_pairs(self.pairs, corpus.tokenizer, longest))
        for role, auxiliary in self.decoding.auxiliaries.items() if self.cfg.stage == "evaluate" else ():
            auxiliary.check_corpus(self.labelled, corpus.tokenizer, corpus.info["block_length"])
            self._check_reads_prompts(role, auxiliary, corpus)
        return artifact

    def _check_reads_prompts(self, role: str, auxiliary: Auxiliary, corpus: Corpus) -> None:
        """Raise ValueError where an auxiliary model's context is too short for what is generated.

        How long a text is in another tokenizer is only known once it is written; decoding checks that.
        """
        start = auxiliary.pretrained
        if start is not None and tokenizer_of(start, corpus.tokenizer).get_vocab() != corpus.tokenizer.get_vocab():
            return
        config = self._config(START[auxiliary.continues], corpus, start)
        room = getattr(self._config("model", corpus), "max_position_embeddings", 1 << 30)
        for name, task in self.tasks.items():
            prompts = encode_prompts(task.prompts, corpus.tokenizer, room - task.max_new_tokens)
            longest = max(map(len, prompts), default=0) + task.max_new_tokens
            check_context(config, longest, f"tasks.{name}: prompt + max_new_tokens", f"the {role} model")

    def uncensored(self) -> Artifact:
        """The model of this seed without any method."""
        return self._trained("model", UNCENSORED, None, role="uncensored", bare=True)

    def decoder(self, auxiliaries: dict[str, Artifact]) -> Decoder:
        folders = {role: artifact.path for role, artifact in auxiliaries.items()}
        first = next(iter(self.decoding.auxiliaries.values()), None)  # those of one decoder continue the same model
        loading = self._loading("model" if first is None else START[first.continues])
        return self.decoding.load(folders, self.corpus.tokenizer, self.hardware.device, LoadOptions(**loading))

    @cache  # noqa: B019
    def auxiliaries(self) -> dict[str, Artifact]:
        """The models that the decoder reads, by role."""
        return {role: self._auxiliary(role, auxiliary) for role, auxiliary in self.decoding.auxiliaries.items()}

    def _auxiliary(self, role: str, auxiliary: Auxiliary) -> Artifact:
        inputs = {"data": self.data()}
        if auxiliary.pretrained is None:
            inputs["start"] = getattr(self, auxiliary.continues)()
        settings = {
            "training": describe(auxiliary),
            "labelled": self._settings("labelled"),
            "precision": self.hardware.precision,
        }

        def build(directory: Path) -> dict[str, Any]:
            return auxiliary.train(
                auxiliary.pretrained or inputs["start"].path,
                self.labelled,
                tokenizer=self.corpus.tokenizer,
                block_length=self.corpus.info["block_length"],
                context=TrainingContext(self.hardware, directory, self._logger(role), self._watching()),
                options=LoadOptions(**self._loading(START[auxiliary.continues])),
            )

        return self._build(
            auxiliary.stage,
            2,
            role=role,
            settings=settings,
            inputs=inputs,
            builder=build,
            resumable=True,
            collective=True,
        )

    def _post_trained(self, model: Artifact) -> Artifact:
        """The model after post-training; itself where there is none."""
        dpo = self.post_training
        if dpo is None:
            return model
        read = {
            "pairs": self._settings("pairs"),
            "max_length": dpo.max_length,
            "precision": self.hardware.precision,
        }

        def encoded() -> Any:
            return encode_pairs(self.pairs, self.corpus.tokenizer, dpo.max_length)

        def refer(directory: Path) -> None:
            np.save(
                directory / REFERENCE_FILE,
                reference_log_probabilities(
                    self._load(model),
                    encoded(),
                    batch_size=self.hardware.micro_batch_size,
                    precision=self.hardware.precision,
                ),
            )

        reference = self._build("reference", 2, settings=read, inputs={"model": model}, builder=refer)

        def build(directory: Path) -> dict[str, Any]:
            policy = load_model(model.path, **self._loading())
            facts = dpo.train(
                policy,
                load_model(model.path, **self._loading()) if dpo.kl else None,
                encoded(),
                np.load(reference.path / REFERENCE_FILE),
                TrainingContext(self.hardware, directory, self._logger("post_training"), self._watching()),
            )
            save_trained(policy, self.corpus.tokenizer, directory)
            return facts

        return self._build(
            "model",
            1,
            settings={"post_training": describe(dpo)},
            inputs={"model": model, "reference": reference},
            builder=build,
            resumable=True,
            collective=True,
        )
