"""The stages of a run."""

from ifguide.pipeline.evaluation import Pipeline

__all__ = ["Pipeline"]
