"""What devices compute fast."""

import resource
from pathlib import Path

import pytest
import torch

from ifguide import hardware
from ifguide.hardware import computes_bfloat16, keeping_freed_memory
from ifguide.training.trainer import TrainerSettings


@pytest.mark.parametrize("amx, avx512", [(True, False), (False, True), (False, False)])
def test_a_cpu_has_bfloat16_where_torch_says_so_and_auto_trains_in_it(amx, avx512, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert computes_bfloat16(torch.device("cpu")) == (amx or avx512) and not computes_bfloat16(torch.device("meta"))
    assert TrainerSettings(precision="auto").precision == ("bf16-mixed" if amx or avx512 else "32-true")
    assert TrainerSettings().precision == "32-true"


TENSOR = 1 << 24  # numbers: 16,384 pages of 4 KiB


def fresh_pages(count):
    """Pages that the system had to give for so many tensors of 64 MiB, one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.empty(TENSOR).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident():
    """MiB of memory of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


@pytest.mark.skipif(not hardware._is_glibc(), reason="of glibc alone")
def test_memory_that_is_freed_is_used_again_within_the_context_and_handed_back_after_it():
    with keeping_freed_memory():
        assert fresh_pages(20) < 10 * 16_384, "some, where small requests have taken a part of the room"
        held = [torch.ones(TENSOR) for _ in range(8)]
        held.clear()
        kept = resident()
    assert kept - resident() > 4 * 64, "MiB"


def test_elsewhere_nothing_is_asked_of_the_c_library(monkeypatch):
    monkeypatch.setattr(hardware, "_is_glibc", lambda: False)
    monkeypatch.setattr(hardware.ctypes, "CDLL", None)
    with keeping_freed_memory():
        pass


def test_what_cannot_name_its_c_library_is_not_glibc(monkeypatch):
    monkeypatch.setattr(hardware.os, "confstr", lambda name: None, raising=False)
    assert not hardware._is_glibc()
    monkeypatch.delattr(hardware.os, "confstr")
    assert not hardware._is_glibc()
