"""LANCET-style correction of a trained model (after arXiv 2412.16451; its formulas are not known to us, ours are
reconstructions): what it wrote that is unwanted, the training sequences that influence that, and a Bregman objective
between those that promote it and those that suppress it."""

from ifguide.methods.lancet.queries import queries_of
from ifguide.methods.lancet.training import Lancet

__all__ = ["Lancet", "queries_of"]
