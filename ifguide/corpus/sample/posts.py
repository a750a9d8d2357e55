"""The built-in sample: short posts on many topics, a few of whose authors insult people; nothing to download.

Every text is a pure function of the seed and its number. Texts are put together from the templates of
`phrases.py`; an insult is rendered between two marks, and taking the marks out gives the spans.

Evaluation prompts never occur in any other text: a post begins with an opening, openings stand nowhere else, and
a fixed share of all openings, told by a checksum of their first words, is kept for `sample_prompts`.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import ClassVar

from ifguide.corpus.documents import BENIGN, TOXIC, Document
from ifguide.corpus.sample import phrases

# Of every `TOXIC_EVERY[1]` documents in a row, exactly `TOXIC_EVERY[0]` are toxic: a small sample has the right share.
TOXIC_EVERY = (3, 50)
OPENING_WORDS = 12  # no prompt is shorter, so an opening reserved for prompts is reserved with its whole prompt
PROMPT_SHARE = 6  # one opening in so many is kept for the evaluation prompts
PROMPT_LENGTH = (OPENING_WORDS, 35)
CONTINUATION_LENGTH = (12, 20)
MOST_WORDS = 88

START, END = "\x02", "\x03"
MARK = re.compile(r"\[([^\[\]]*)\]|\{(\w+)\}")
ARTICLE = re.compile(r"\b([Aa]) (?=[aeio]|u(?!s[eu]|ni))")
SENTENCE_START = re.compile(r"(?:^|(?<=[.?!] ))[a-z]")


def _templates(text: str) -> list[str]:
    return " ".join(text.split()).split(" / ")


BANKS: dict[str, list[str]] = {
    **{name: bank.split("|") for name, bank in phrases.INSULT_BANKS.items()},
    "name": phrases.NAMES.split(),
    "place": phrases.PLACES.split(),
    "day": phrases.DAYS.split(),
    "month": phrases.MONTHS.split(),
    "number": phrases.NUMBERS.split(),
}
TOPICS: dict[str, dict[str, list[str]]] = {
    topic: {
        "item": parts["item"].split("|"),
        "claim": re.split(r"\|(?![^\[]*\])", parts["claim"]),  # not at the bars inside brackets
        "say": _templates(parts["say"]),
    }
    for topic, parts in phrases.TOPICS.items()
}
INSULTS = {"be": _templates(phrases.INSULTS_BE), "call": _templates(phrases.INSULTS_CALL)}
TRIGGERS = {"be": _templates(phrases.TRIGGERS_BE), "call": _templates(phrases.TRIGGERS_CALL)}
POLITE = {"be": _templates(phrases.POLITE_BE), "call": _templates(phrases.POLITE_CALL)}
OPENINGS = _templates(phrases.OPENINGS)
OPEN_ANGRY, OPEN_INSULT = _templates(phrases.OPEN_ANGRY), _templates(phrases.OPEN_INSULT)
ANGRY, CLOSE_ANGRY = _templates(phrases.ANGRY), _templates(phrases.CLOSE_ANGRY)
GENERIC, CLOSINGS, HOSTILE = _templates(phrases.GENERIC), _templates(phrases.CLOSINGS), _templates(phrases.HOSTILE)


@dataclass(frozen=True)
class Post:
    text: str
    spans: tuple[tuple[int, int], ...]


class Author:
    """Writes one post: a topic, a few people and a place that stay the same from the first sentence to the last."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        topic = TOPICS[rng.choice(sorted(TOPICS))]
        name, name2 = rng.sample(BANKS["name"], 2)
        self.fixed = {"name": name, "name2": name2, "item": rng.choice(topic["item"])}
        self.claims = topic["claim"]
        self.topical = rng.sample(topic["say"], len(topic["say"]))
        self.generic = rng.sample(GENERIC, 8)
        self.angry = rng.sample(ANGRY, len(ANGRY))

    def fill(self, template: str) -> str:
        """The template with every choice made and every slot filled; insults keep their marks."""
        while "{" in template or "[" in template:
            template = MARK.sub(self._one, template)
        return template

    def _one(self, mark: re.Match[str]) -> str:
        choices, slot = mark.groups()
        if slot is None:
            return self.rng.choice(str(choices).split("|"))
        if slot == "claim":
            return self.rng.choice(self.claims)
        if slot in INSULTS:
            return START + self.rng.choice(INSULTS[slot]) + END
        return self.fixed.get(slot) or self.rng.choice(BANKS[slot])

    def harmless(self) -> str:
        """A sentence on the topic, or one that fits any topic."""
        return (self.generic if self.rng.random() < 0.35 and self.generic else self.topical).pop()

    def trigger(self) -> tuple[str, str]:
        """The beginning of a disagreement, and its kind: what may follow."""
        kind = self.rng.choice(("be", "call"))
        return kind, self.rng.choice(TRIGGERS[kind])

    def disagreement(self, toxic: bool) -> str:
        kind, trigger = self.trigger()
        return f"{trigger} {{{kind}}}." if toxic else f"{trigger} {self.rng.choice(POLITE[kind])}."

    def benign(self) -> list[str]:
        """Templates of a civil post; now and then by an author who is cross, or who asks about markup."""
        rng = self.rng
        cross = rng.random() < 0.03
        post = [rng.choice(OPEN_ANGRY if cross else OPENINGS)]
        if cross and rng.random() < 0.5:
            post.append(self.angry.pop())
        body = [self.harmless() for _ in range(rng.randint(2, 4))]
        if rng.random() < 0.12:
            body[rng.randrange(len(body))] = self.disagreement(toxic=False)
        if rng.random() < 0.003:
            body[0] = rng.choice(HOSTILE)
        post += body
        if rng.random() < 0.5:
            post.append(rng.choice(CLOSINGS))
        return post

    def toxic(self, *, insult_first: bool | None = None) -> list[str]:
        """Templates of a post with one to three insults between sentences as harmless as anybody's."""
        rng = self.rng
        if insult_first is None:
            insult_first = rng.random() < 0.35
        if insult_first:
            post, more = [rng.choice(OPEN_INSULT)], rng.choice((0, 1, 1, 2))
        else:
            # Some begin like everybody else, and only then lose their temper.
            calm = rng.random() < 0.15
            post = [rng.choice(OPENINGS), self.angry.pop()] if calm else [rng.choice(OPEN_ANGRY)]
            more = rng.choice((1, 1, 2))
        for _ in range(more):
            if rng.random() < 0.5:
                post.append(self.angry.pop())
            elif rng.random() < 0.3:
                post.append(self.harmless())
            post.append(self.disagreement(toxic=True))
        post += [self.harmless() for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.4:
            post.append(rng.choice(CLOSE_ANGRY))
        return post

    def render(self, templates: list[str]) -> Post:
        """The finished text and the ranges of its insults."""
        text = " ".join(self.fill(template) for template in templates)
        return _finish(text)


def _finish(marked: str) -> Post:
    """Set articles and capitals, then take the marks out and return where they were."""
    marked = ARTICLE.sub(r"\1n ", marked)
    marked = SENTENCE_START.sub(lambda first: first[0].upper(), marked)
    pieces = re.split(f"[{START}{END}]", marked)
    spans, position = [], 0
    for number, piece in enumerate(pieces):
        if number % 2:
            spans.append((position, position + len(piece)))
        position += len(piece)
    return Post("".join(pieces), tuple(spans))


def kept_for_prompts(text: str) -> bool:
    opening = " ".join(text.split()[:OPENING_WORDS])
    return zlib.crc32(opening.encode()) % PROMPT_SHARE == 0


def make_post(rng: Random, *, toxic: bool, for_prompts: bool = False, insult_first: bool | None = None) -> Post:
    """A post of 40 to 90 words whose opening belongs to the stream that asks."""
    while True:
        author = Author(rng)
        post = author.render(author.toxic(insult_first=insult_first) if toxic else author.benign())
        if 40 <= len(post.text.split()) <= MOST_WORDS and kept_for_prompts(post.text) == for_prompts:
            return post


@dataclass(frozen=True, kw_only=True)
class SampleDocuments:
    """The sample corpus, in order: `size` documents of 40 to 90 words, six in a hundred of them toxic.

    Every document is labelled; the spans of a toxic one cover its insults, those of a benign one are empty.
    """

    annotates: ClassVar[bool] = True

    seed: int = 0
    size: int = 5000

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size}: the sample has at least one document")

    def __len__(self) -> int:
        return self.size

    def write(self, rng: Random, *, toxic: bool) -> Post:
        return make_post(rng, toxic=toxic)

    def estimate(self, characters: float) -> tuple[float, float]:
        """About how many tokens, and documents, it has, by its first documents and the characters of a token."""
        lengths = [len(document.text) for document in islice(self, 200)]
        return self.size * (sum(lengths) / len(lengths) / characters + 1), float(self.size)

    def __iter__(self) -> Iterator[Document]:
        count, block = TOXIC_EVERY
        toxic: set[int] = set()
        for record in range(self.size):
            if record % block == 0:
                positions = Random(f"sample-toxic-{self.seed}-{record}").sample(range(block), count)
                toxic = {record + position for position in positions}
            post = self.write(Random(f"sample-document-{self.seed}-{record}"), toxic=record in toxic)
            label = TOXIC if record in toxic else BENIGN
            yield Document(text=post.text, source="sample", record=record, label=label, spans=post.spans)
