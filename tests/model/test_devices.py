"""Devices: the precision that each decides, the base model held in it, and free memory."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from toys.bases import toy_config
from toys.words import LABEL_NAMES

from autopeft import model
from autopeft.model import Precision, choose_precision, free_bytes, is_out_of_memory
from autopeft.model.devices import limit_memory
from autopeft.types import ModelSpec

CPU = torch.device("cpu")
AUTO = "AutoModelForSequenceClassification"


def config(hidden=256):
    text = SimpleNamespace(hidden_size=hidden)
    return SimpleNamespace(get_text_config=lambda: text)


def test_a_gpu_that_only_emulates_bfloat16_computes_in_float16_if_it_can(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    for capability, dtype in {
        (6, 1): "float32",
        (7, 5): "float16",
        (8, 0): "bfloat16",
        (9, 0): "bfloat16",
    }.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert choose_precision(config(), torch.device("cuda:0")).dtype == dtype
        overflowing = choose_precision(toy_config("t5"), torch.device("cuda:0")).dtype
        assert overflowing == ("float32" if dtype == "float16" else dtype)


FLAGS = {
    "avx512_bf16": (torch.cpu, "_is_avx512_bf16_supported"),
    "amx_bf16": (torch.cpu, "_is_amx_tile_supported"),
    "bf16": (torch.ops.mkldnn, "_is_mkldnn_bf16_supported"),
    "acl": (torch.ops.mkldnn, "_is_mkldnn_acl_supported"),
    "onednn": (torch.backends.mkldnn, "is_available"),
}


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("onednn avx512_bf16", "bfloat16"),  # Zen 4, Cooper Lake
        ("onednn amx_bf16", "bfloat16"),
        ("onednn acl bf16", "bfloat16"),  # Graviton3
        ("onednn acl", "float32"),  # Graviton2
        ("onednn bf16", "float32"),  # what oneDNN says of any AVX-512, which emulates it
        ("onednn", "float32"),
        ("bf16", "float32"),  # a Mac, whose torch has no oneDNN
    ],
)
def test_a_processor_computes_in_bfloat16_if_it_has_instructions_for_it(flags, dtype, monkeypatch):
    for flag, (module, name) in FLAGS.items():
        monkeypatch.setattr(module, name, partial(bool, flag in flags.split()))
    assert choose_precision(config(), CPU) == Precision(dtype=dtype)
    assert choose_precision(config(4096), CPU) == Precision(dtype=dtype)
    assert choose_precision(toy_config("bert"), CPU) == Precision()  # too narrow to gain anything


def test_base_is_held_in_bfloat16_and_its_head_in_float32(model_dir):
    exact, held = (
        model.load(
            ModelSpec(id=str(model_dir)),
            auto_class=AUTO,
            label_names=LABEL_NAMES,
            precision=Precision(dtype=dtype),
        )
        for dtype in ("float32", "bfloat16")
    )
    dtypes = {name: p.dtype for name, p in held.module.named_parameters()}
    in_head = {name for name in dtypes if name.startswith(held.head_names)}
    assert {dtypes[name] for name in in_head} == {torch.float32}
    assert {dtype for name, dtype in dtypes.items() if name not in in_head} == {torch.bfloat16}
    for name, parameter in exact.module.named_parameters():
        if name not in in_head:
            assert torch.equal(parameter.bfloat16(), held.module.get_parameter(name))


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
