"""The time of a step: kernels counted by hand, rooflines by closed form, cards by their data sheets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autopeft.estimate import Rates, measure_rates
from autopeft.estimate.fake_tensors import QuantizedLinear
from autopeft.estimate.memory_tracker import MemoryTracker

N = 64
SLOW = Rates(name="slow", flops=1e6, bytes=1e12, call_seconds=1e-3, runs_ahead=False)
NARROW = Rates(name="narrow", flops=1e12, bytes=1e6, call_seconds=1e-3, runs_ahead=True)


def work_of(compute, rates):
    with MemoryTracker(rates) as tracker:
        compute()
    return tracker.n_calls, tracker.busy_seconds


def test_product_takes_its_operations_or_its_bytes_whichever_is_longer():
    left, right = torch.ones(N, N), torch.ones(N, N)
    assert work_of(lambda: left @ right, SLOW) == (1, pytest.approx(2 * N**3 / 1e6))
    assert work_of(lambda: left @ right, NARROW) == (1, pytest.approx(3 * N * N * 4 / 1e6))


def test_views_take_no_time_and_a_look_up_reads_only_its_rows():
    table, rows = torch.ones(1000, N), torch.tensor([1, 2, 3])
    assert work_of(lambda: table.t().unsqueeze(0)[:, 1:], NARROW) == (0, 0.0)
    n_calls, seconds = work_of(lambda: torch.nn.functional.embedding(rows, table), NARROW)
    assert (n_calls, seconds) == (1, pytest.approx(2 * 3 * N * 4 / 1e6))


def test_backward_pass_of_a_frozen_layer_is_one_product_more_and_of_a_trained_one_two():
    inputs = torch.ones(N, N, requires_grad=True)
    product = 2 * N**3 / SLOW.flops
    for is_trained, n_products in ((False, 2), (True, 3)):
        weight = torch.ones(N, N, requires_grad=is_trained)
        _, seconds = work_of(lambda weight=weight: (inputs @ weight).sum().backward(), SLOW)
        assert seconds == pytest.approx(n_products * product, rel=1e-3)


def test_unpacking_a_quantized_weight_reads_it_and_writes_16_bits():
    layer = QuantizedLinear(nn.Linear(N, 2 * N, bias=False, device="meta"), 0.5, dtype=torch.bfloat16)
    n_calls, seconds = work_of(layer.unpacked, NARROW)
    assert (n_calls, seconds) == (1, pytest.approx(2 * N * N * (0.5 + 2) / 1e6))


def test_a_gpu_hides_the_starts_of_its_kernels_and_a_cpu_does_not():
    assert NARROW.of_step(0.5, 100) == 0.5
    assert NARROW.of_step(0.05, 100) == pytest.approx(0.1)
    assert SLOW.of_step(0.5, 100) == pytest.approx(0.6)


def test_probe_of_this_machine_has_rates_that_a_machine_can_have():
    rates = measure_rates(torch.device("cpu"), torch.float32)
    assert 1e8 < rates.flops < 1e14
    assert 1e8 < rates.bytes < 1e13
    assert 1e-8 < rates.call_seconds < 1e-2
    assert not rates.runs_ahead
