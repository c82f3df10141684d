"""The precision that a device decides, the base model held in it, and what a run says of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toys.bases import toy_config
from toys.words import LABEL_NAMES

from autopeft import model
from autopeft.model import Precision, choose_precision
from autopeft.types import ModelSpec

CPU = torch.device("cpu")
CPU_FACTS = Path("/proc/cpuinfo")
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
