"""Sequences of different lengths as one batch."""

import numpy as np
import torch

from ifguide.corpus.padding import pad


def test_sequences_keep_their_type_and_stand_to_the_left():
    values, real = pad([np.array([1, 2, 3]), np.array([4]), np.array([5, 6])])
    assert values.tolist() == [[1, 2, 3], [4, 0, 0], [5, 6, 0]] and values.dtype == torch.int64
    assert real.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert pad([np.array([True]), np.array([True, False])])[0].dtype == torch.bool
