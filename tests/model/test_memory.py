"""Free memory of a device."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from autopeft.model import free_bytes, is_out_of_memory
from autopeft.model.devices import limit_memory


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
def test_errors_of_a_full_gpu_are_distinguished_from_others(message, is_memory):
    assert is_out_of_memory(RuntimeError(message)) is is_memory
    assert not is_out_of_memory(ValueError(message))


GPU, GIB = torch.device("cuda:0"), 2**30


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of 80 GiB with 70 GiB free, of which torch has reserved 5 GiB and uses 3 GiB; the shares set."""
    shares = [1.0]
    answers = {
        "mem_get_info": lambda device: (70 * GIB, 80 * GIB),
        "memory_reserved": lambda device: 5 * GIB,
        "memory_allocated": lambda device: 3 * GIB,
        "get_device_properties": lambda device: SimpleNamespace(total_memory=80 * GIB),
        "get_per_process_memory_fraction": lambda device: shares[-1],
        "set_per_process_memory_fraction": lambda share, device: shares.append(share),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    return shares


def test_a_limit_is_enforced_by_torch_and_bounds_what_is_free_for_whoever_asks(gpu):
    assert free_bytes(GPU) == 72 * GIB
    assert free_bytes(GPU, limit_bytes=16 * GIB) == 13 * GIB
    limit_memory(GPU, 20 * GIB)
    assert gpu == [1.0, 0.25]
    assert free_bytes(GPU) == 17 * GIB
    assert free_bytes(GPU, limit_bytes=16 * GIB) == 13 * GIB
    assert free_bytes(GPU, limit_bytes=40 * GIB) == 17 * GIB


def test_a_lower_limit_of_before_stays_and_one_above_the_gpu_is_none(gpu):
    limit_memory(GPU, 100 * GIB)
    assert gpu[-1] == 1.0
    limit_memory(GPU, 8 * GIB)
    limit_memory(GPU, 40 * GIB)
    assert gpu[-1] == pytest.approx(0.1)
