"""The built-in sample: a writer of short posts, a few of whose authors insult people; nothing to download."""

from ifguide.corpus.sample.order import OrderDocuments, order_queries
from ifguide.corpus.sample.posts import SampleDocuments
from ifguide.corpus.sample.records import sample_labelled, sample_pairs, sample_prompts, sample_queries

__all__ = [
    "OrderDocuments",
    "SampleDocuments",
    "order_queries",
    "sample_labelled",
    "sample_pairs",
    "sample_prompts",
    "sample_queries",
]
