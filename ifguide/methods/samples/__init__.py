"""A model's own continuations, which a classifier labels: what several methods learn from."""

from ifguide.methods.samples.settings import Sampling
from ifguide.methods.samples.store import SAMPLES_FILE, load_samples, save_samples

__all__ = ["SAMPLES_FILE", "Sampling", "load_samples", "save_samples"]
