"""What the devices here compute fast."""

import torch

AUTO, FLOAT32, BFLOAT16 = "auto", "float32", "bfloat16"  # auto: what the device computes fast


def computes_bfloat16(device: torch.device) -> bool:
    """Whether hardware makes products in bfloat16: AMX or AVX-512 BF16 of a CPU, tensor cores of a GPU."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
