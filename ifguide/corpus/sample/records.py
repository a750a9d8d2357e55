"""What is made of posts beside documents: queries, evaluation prompts, labelled texts and preference pairs."""

import re
from functools import lru_cache
from random import Random

from ifguide.corpus.documents import LabelledText, Pair, Prompt, Query
from ifguide.corpus.sample.posts import (
    CONTINUATION_LENGTH,
    OPEN_ANGRY,
    OPENING_WORDS,
    OPENINGS,
    POLITE,
    PROMPT_LENGTH,
    Author,
    Post,
    kept_for_prompts,
    make_post,
)

kept = lru_cache(2**13)  # the rows of a sweep ask for the same texts


def _ends(text: str) -> list[int]:
    """Where each word ends."""
    return [word.end() for word in re.finditer(r"\S+", text)]


def _cut(rng: Random, post: Post, *, at: int) -> tuple[str, str] | None:
    """(prompt, continuation) of the post, cut after `at` words; None where it is too short for that."""
    ends = _ends(post.text)
    length = rng.randint(*CONTINUATION_LENGTH)
    if not PROMPT_LENGTH[0] <= at <= PROMPT_LENGTH[1] or at + length > len(ends):
        return None
    middle = ends[at - 1]
    return post.text[:middle], post.text[middle : ends[at + length - 1]]


def _cut_at_insult(rng: Random, *, for_prompts: bool, insulted: bool) -> tuple[str, str]:
    """A toxic post cut where an insult is about to come or has just begun; `insulted`: the prompt has one already."""
    while True:
        post = make_post(rng, toxic=True, for_prompts=for_prompts, insult_first=insulted)
        start, end = post.spans[1 if insulted and len(post.spans) > 1 else 0]
        before = len(post.text[:start].split())
        at = before + rng.choice((-3, -2, -1, 0, 0, 0, 0, 0, 0, 1))
        cut = _cut(rng, post, at=at)
        enough = cut and len(cut[0]) + len(cut[1]) >= end
        if cut and enough and (post.spans[0][1] <= len(cut[0])) == insulted:
            return cut


def _cut_benign(rng: Random, *, for_prompts: bool) -> tuple[str, str]:
    """A civil post, or now and then the civil part of a toxic one, cut at any word."""
    while True:
        post = make_post(rng, toxic=rng.random() < 0.05, for_prompts=for_prompts, insult_first=False)
        cut = _cut(rng, post, at=rng.randint(*PROMPT_LENGTH))
        if cut and not any(start < len(cut[0]) + len(cut[1]) for start, _ in post.spans):
            return cut


def sample_queries(*, seed: int = 0, size: int = 400) -> list[Query]:
    """Queries for the influence computation: the first of each two is toxic, the second is not."""
    return [_query(seed, record) for record in range(size)]


@kept
def _query(seed: int, record: int) -> Query:
    rng = Random(f"sample-query-{seed}-{record}")
    toxic = record % 2 == 0
    if toxic:
        prompt, continuation = _cut_at_insult(rng, for_prompts=False, insulted=rng.random() < 0.5)
    else:
        prompt, continuation = _cut_benign(rng, for_prompts=False)
    return Query(prompt=prompt, continuation=continuation, toxic=toxic, record=f"query-{record}")


def sample_prompts(*, seed: int = 0, size: int = 200) -> list[Prompt]:
    """Prompts for the evaluation, from openings that no other text has; toxic and nontoxic in turn."""
    return [_prompt(seed, record) for record in range(size)]


@kept
def _prompt(seed: int, record: int) -> Prompt:
    rng = Random(f"sample-prompt-{seed}-{record}")
    if record % 2 == 0:
        text, _ = _cut_at_insult(rng, for_prompts=True, insulted=rng.random() < 0.5)
    else:
        text, _ = _cut_benign(rng, for_prompts=True)
    subset = "toxic" if record % 2 == 0 else "nontoxic"
    return Prompt(text=text, subset=subset, record=f"prompt-{record}")


def _beginning(rng: Random, *, toxic: bool) -> tuple[str, int]:
    """A post up to any word, and the insults in it, some or none; of the latter, some would have come to one."""
    while True:
        post = make_post(rng, toxic=toxic or rng.random() < 0.25)
        cut = rng.choice(_ends(post.text)[OPENING_WORDS - 1 :])
        insults = sum(end <= cut for _, end in post.spans)
        if (insults > 0) == toxic and not any(start < cut < end for start, end in post.spans):
            return post.text[:cut], insults


def sample_labelled(*, seed: int = 0, size: int = 2000) -> list[LabelledText]:
    """For classifiers, reward models and experts: half beginnings of posts, half single sentences, 30 % toxic.

    Toxicity is graded, as it is where several people label: 1 − 2⁻ⁿ for n insults, so that another one still counts.
    """
    return [_labelled(seed, record) for record in range(size)]


@kept
def _labelled(seed: int, record: int) -> LabelledText:
    rng = Random(f"sample-labelled-{seed}-{record}")
    toxic = rng.random() < 0.3
    if rng.random() < 0.5:
        text, insults = _beginning(rng, toxic=toxic)
    else:
        author = Author(rng)
        polite = author.disagreement(toxic=False) if rng.random() < 0.3 else author.harmless()
        text, insults = author.render([author.disagreement(toxic=True) if toxic else polite]).text, int(toxic)
    return LabelledText(text, 1 - 0.5**insults)


def sample_pairs(*, seed: int = 0, size: int = 1000) -> list[Pair]:
    """One beginning of a post, with a polite and with an insulting continuation."""
    return [_pair(seed, record) for record in range(size)]


@kept
def _pair(seed: int, record: int) -> Pair:
    rng = Random(f"sample-pair-{seed}-{record}")
    while True:
        author = Author(rng)
        opening = author.fill(rng.choice(OPEN_ANGRY if rng.random() < 0.7 else OPENINGS))
        kind, trigger = author.trigger()
        prompt = author.render([opening, trigger]).text
        if not kept_for_prompts(prompt):
            break
    rest = author.fill(author.harmless())
    chosen = author.render([f"- {rng.choice(POLITE[kind])}. {rest}"]).text[1:]
    rejected = author.render([f"- {{{kind}}}. {rest}"]).text[1:]
    return Pair(prompt, chosen, rejected)
