"""The stages of a run."""

from ifguide.pipeline.target import Pipeline

__all__ = ["Pipeline"]
