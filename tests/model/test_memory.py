"""Free memory of a device."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
import torch

from autopeft.model import FreedMemory, free_bytes, is_out_of_memory


def test_free_memory_of_the_machine_is_part_of_it_and_in_bytes():
    seen = free_bytes(torch.device("cpu"))
    assert 2**26 < seen <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory in other ways")
def test_memory_that_is_freed_between_blocks_in_use_goes_back_to_the_system():
    blocks = [torch.ones(2**14) for _ in range(4096)]  # 64 KiB each, which glibc takes from its heap
    last = blocks[-1]
    full = resident_bytes()
    del blocks
    FreedMemory(torch.device("cpu")).give_back()
    assert full - resident_bytes() > 0.8 * 4095 * 2**16
    assert last.sum() == 2**14


@pytest.mark.parametrize(
    ("message", "is_memory"),
    [
        ("CUDA error: out of memory", True),
        ("cuFFT error: CUFFT_ALLOC_FAILED", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", True),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm`", False),
        ("CUDA error: device-side assert triggered", False),
    ],
)
def test_errors_of_a_full_gpu_are_told_from_others(message, is_memory):
    assert is_out_of_memory(RuntimeError(message)) is is_memory
    assert not is_out_of_memory(ValueError(message))
