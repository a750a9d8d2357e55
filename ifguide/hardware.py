"""What the devices here compute fast, and memory of theirs that work is faster with."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

AUTO, FLOAT32, BFLOAT16 = "auto", "float32", "bfloat16"  # auto: what the device computes fast
# of glibc's mallopt: what is freed at the top goes back beyond so much, and larger requests have pages of their own
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
LARGE = 32 << 20  # where glibc's own thresholds end up in a program that frees large tensors


def computes_bfloat16(device: torch.device) -> bool:
    """Whether hardware makes products in bfloat16: AMX or AVX-512 BF16 of a CPU, tensor cores of a GPU."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Within this context, what tensors leave free is kept for the next ones, not handed back to the system page by
    page: a fifth of the time of a training step on CPUs, for a few per cent more memory where shapes repeat. Of glibc
    alone; elsewhere nothing happens."""
    if not _is_glibc():
        yield
        return
    library = ctypes.CDLL(None)
    library.mallopt(MMAP_MAX, 0)
    library.mallopt(TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        library.mallopt(MMAP_MAX, 1 << 16)
        library.mallopt(MMAP_THRESHOLD, LARGE)
        library.mallopt(TRIM_THRESHOLD, 2 * LARGE)
        library.malloc_trim(0)


def _is_glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (AttributeError, ValueError, OSError):  # of Windows and macOS
        return False
