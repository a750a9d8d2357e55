import pytest
import torch

from ifguide.methods.rad.loss import cumulative_squared_error


def test_cumulative_error_weighs_later_beginnings_more():
    rewards = torch.tensor([[9.0, 0.2, 0.4, 0.9], [9.0, 0.3, 0.7, 9.0]], dtype=torch.float64)
    scored = torch.tensor([[False, True, True, True], [False, True, True, False]])
    expected = [
        (1 * 0.8**2 + 2 * 0.6**2 + 3 * 0.1**2) / 6,  # y = 1, n = 3
        (1 * 0.3**2 + 2 * 0.7**2) / 3,  # y = 0, n = 2
    ]
    found = cumulative_squared_error(rewards, torch.tensor([1.0, 0.0], dtype=torch.float64), scored)
    assert float(found) == pytest.approx(sum(expected) / 2, abs=1e-12)
