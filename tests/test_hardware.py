"""What devices compute fast."""

import pytest
import torch

from ifguide.hardware import computes_bfloat16
from ifguide.training.trainer import TrainerSettings


@pytest.mark.parametrize("amx, avx512", [(True, False), (False, True), (False, False)])
def test_a_cpu_has_bfloat16_where_torch_says_so_and_auto_trains_in_it(amx, avx512, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert computes_bfloat16(torch.device("cpu")) == (amx or avx512) and not computes_bfloat16(torch.device("meta"))
    assert TrainerSettings(precision="auto").precision == ("bf16-mixed" if amx or avx512 else "32-true")
    assert TrainerSettings().precision == "32-true"
