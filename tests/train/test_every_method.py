"""Every method trains on the bench, at its own rates."""

from __future__ import annotations

import pytest
import torch

from autopeft.extension import discover
from autopeft.model import SavedBytes
from autopeft.records import Status

METHODS = discover("autopeft.methods")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_that_fits_an_encoder_is_measured(name, make_bench, make_plan, fidelity):
    bench = make_bench()
    if all(METHODS[name].refusal(site) is not None for site in bench.base.sites):
        pytest.skip("takes no site of an encoder")
    low, _ = METHODS[name].learning_rate_range
    measurement = bench.measure(make_plan(bench.base, name, learning_rate=low), fidelity())
    assert measurement.error is None and measurement.status is Status.COMPLETE


def test_bytes_of_a_sparse_tensor_are_those_of_its_values():
    counter, factors = SavedBytes(), torch.ones(3)
    values, places = torch.ones(3, requires_grad=True), torch.tensor([[0, 1, 2], [2, 1, 0]])
    with counter.counting():
        kept = torch.sparse.mm(torch.sparse_coo_tensor(places, 2 * values, (3, 3)), factors[:, None])
    assert kept.requires_grad and counter.total == 2 * 3 * 4  # the scaled values, and the factors
