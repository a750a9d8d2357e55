"""Negation of a task vector (Ilharco et al., 2023): the weights step back from what fine-tuning on toxic text makes."""

from ifguide.methods.task_vector.negation import TaskVector, negate

__all__ = ["TaskVector", "negate"]
