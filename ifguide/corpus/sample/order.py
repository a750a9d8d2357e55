"""A behaviour that no word gives away: clauses whose object comes first, in the same words as clauses in usual order.

"On Monday Anna painted the hedge in Ashford" against "On Monday the hedge Anna painted in Ashford". The words around
are those of the sample's civil posts.
"""

from collections.abc import Iterator
from random import Random

from ifguide.corpus.documents import Query
from ifguide.corpus.sample.posts import (
    END,
    MOST_WORDS,
    OPENINGS,
    START,
    Author,
    Post,
    SampleDocuments,
    kept_for_prompts,
)

CLAUSES = 3  # of a post
VERBS = "saw|found|sold|painted|carried|forgot|wanted|praised|borrowed|moved|bought|measured"
PARTS = {
    "lead": "[On {day}|Last {day}|In {month}|Every {day}]",
    "subject": "[{name}|{name2}|my neighbour|a friend of {name2}]",
    "verb": f"[{VERBS}]",
    "item": "the {item}",
    "rest": "[in {place}|near {place}|on the way to {place}]",
}


def clause(author: Author) -> tuple[str, str, str]:
    """How a clause begins, and how it goes on in usual and in inverted order, between marks where that is inverted."""
    lead, subject, verb, item, rest = (author.fill(part) for part in PARTS.values())
    return lead, f"{subject} {verb} {item} {rest}.", f"{START}{item} {subject} {verb}{END} {rest}."


def make_order_post(rng: Random, *, toxic: bool) -> Post:
    """A civil post with a few clauses, of which some are inverted where it is toxic, and none otherwise."""
    while True:
        author = Author(rng)
        body = [author.harmless() for _ in range(2)]
        for index in range(CLAUSES):
            lead, usual, inverted = clause(author)
            body.append(f"{lead} {inverted if toxic and (index == 0 or rng.random() < 0.5) else usual}")
        rng.shuffle(body)
        post = author.render([rng.choice(OPENINGS), *body])
        if 40 <= len(post.text.split()) <= MOST_WORDS and not kept_for_prompts(post.text):
            return post


class OrderDocuments(SampleDocuments):
    """As `SampleDocuments`, but what is toxic is the order of words; spans cover what is inverted."""

    def write(self, rng: Random, *, toxic: bool) -> Post:
        return make_order_post(rng, toxic=toxic)


def order_queries(*, seed: int = 0, size: int = 400) -> list[Query]:
    """Twins: of each two queries, which have the same words, the continuation of the first is inverted."""
    return list(_queries(seed, size))


def _queries(seed: int, size: int) -> Iterator[Query]:
    for record in range(size):
        author = Author(Random(f"order-query-{seed}-{record // 2}"))
        opening, (lead, usual, inverted) = author.fill(author.rng.choice(OPENINGS)), clause(author)
        toxic = record % 2 == 0
        text = author.render([f"{opening} {lead} {inverted if toxic else usual}"]).text
        place = len(author.render([f"{opening} {lead}"]).text)
        yield Query(prompt=text[:place], continuation=text[place:], toxic=toxic, record=f"query-{record}")
