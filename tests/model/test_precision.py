"""The precision that a probe chooses, the base model held in it, and what a run says of it."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from toys.bases import toy_config
from toys.words import LABEL_NAMES

from autopeft import model
from autopeft.model import Precision, choose_precision
from autopeft.records import ModelSpec

CPU = torch.device("cpu")
AUTO = "AutoModelForSequenceClassification"


class Clock:
    """Seconds of a product by its format, so that a test decides how fast each one is."""

    def __init__(self, *, exact=1.0, low=1.0, first_low=1.0):
        self._seconds = {"highest": exact, "low": low, "first": first_low}
        self.n_calls = 0

    def __call__(self, product):
        self.n_calls += 1
        output = product()
        name = torch.get_float32_matmul_precision()
        if output.dtype == torch.bfloat16:
            name = "first" if len(output) < 100 else "low"
        return self._seconds[name]


def config(hidden=256, inner=512):
    text = SimpleNamespace(hidden_size=hidden, intermediate_size=inner)
    return SimpleNamespace(get_text_config=lambda: text)


def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    for capability, dtype in {(7, 5): "float32", (8, 0): "bfloat16", (9, 0): "bfloat16"}.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert choose_precision(config(), torch.device("cuda:0")).dtype == dtype


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({}, Precision()),
        ({"low": 0.5}, Precision(dtype="bfloat16")),
        ({"low": 0.9}, Precision()),  # not clearly faster
        ({"low": 0.1, "first_low": 40.0}, Precision()),  # no instructions for it: full size is not tried
    ],
)
def test_larger_rounding_is_chosen_only_where_it_is_clearly_faster(seconds, expected):
    assert choose_precision(config(), CPU, seconds_of=Clock(**seconds)) == expected


@pytest.mark.parametrize(("low", "is_chosen"), [(1.0, True), (1.2, True), (1.5, False)])
def test_a_wide_model_saves_memory_unless_bfloat16_is_clearly_slower(low, is_chosen):
    chosen = choose_precision(config(4096, 14_336), CPU, seconds_of=Clock(low=low))
    assert (chosen.dtype == "bfloat16") == is_chosen


def test_model_too_small_to_gain_anything_is_not_probed():
    clock = Clock(low=0.01)
    assert choose_precision(toy_config("bert"), CPU, seconds_of=clock) == Precision()
    assert clock.n_calls == 0


def test_other_devices_than_cpu_and_cuda_compute_in_float32():
    clock = Clock(low=0.01)
    assert choose_precision(config(), torch.device("mps"), seconds_of=clock) == Precision()
    assert clock.n_calls == 0


def test_choice_is_told_in_one_sentence_and_leaves_torch_s_flag(caplog):
    before = torch.get_float32_matmul_precision()
    with caplog.at_level(logging.INFO, logger="autopeft"):
        choose_precision(config(), CPU, seconds_of=Clock(low=0.5))
    assert torch.get_float32_matmul_precision() == before
    (record,) = caplog.records
    assert record.getMessage() == (
        "The base model computes in bfloat16: bfloat16 takes 0.50 of float32's time in products of 256 and "
        "512 features; --dtype overrides this."
    )


def test_a_precision_is_for_the_context_alone():
    before = torch.get_float32_matmul_precision()
    with pytest.raises(ZeroDivisionError), Precision(matmul="medium").multiplying():
        assert torch.get_float32_matmul_precision() == "medium"
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == before


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
    ("dtype", "device", "expected"),
    [("bfloat16", "cuda", "high"), ("float32", "cuda", "highest"), ("bfloat16", "cpu", "highest")],
)
def test_copies_of_bfloat16_are_multiplied_in_tf32_where_a_gpu_has_it(dtype, device, expected):
    with Precision(dtype=dtype).of_copies(torch.device(device)).multiplying():
        assert torch.get_float32_matmul_precision() == expected
    assert torch.get_float32_matmul_precision() == "highest"
