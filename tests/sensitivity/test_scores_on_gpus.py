"""What scores add up on GPUs, tried without one: on tensors that have a device and no numbers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toys.sensitivity import SCORES

from autopeft.records import Site
from autopeft.sensitivity.parts import score as parts

WIDTH = 1400  # wide enough for sketches
# lora_fisher takes one of several matrices, which torch cannot do for a device that it was not built for.
FED = [
    n for n, score in SCORES.items() if score.needed_pass not in ("none", "weights") and n != "lora_fisher"
]


class NoFloat64OnMps(TorchDispatchMode):
    """Refuses float64 on Apple's GPUs, as they do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == "mps":
                assert leaf.dtype != torch.float64, f"{func} gives float64 on MPS"
        return result


SITE = Site(
    name="layers.0.q",
    layer=0,
    role="q",
    kind="linear",
    in_features=WIDTH,
    out_features=WIDTH,
    has_bias=True,
)


def map_on(device):
    module = torch.nn.Linear(1, 1)  # on the CPU: initial values cannot be drawn on a device that is not there
    module.weight = torch.nn.Parameter(torch.empty(WIDTH, WIDTH, device=device))
    return module


def seen_on(device, name, site=SITE):
    """Two reducers of a score, one after two batches and one after one, on a device."""
    first, second = (SCORES[name].reducer([site], seed=0) for _ in range(2))
    for reducer in (first, first, second):
        sizes = (site.in_features, site.out_features)
        inputs, gradient = (torch.empty(2, 3, size, device=device) for size in sizes)
        reducer.update(site, map_on(device), inputs, gradient)
    return first, second


def devices_of_sums(reducer):
    return {total.device.type for sums in reducer.sums.values() for total in sums if total.numel() > 1}


@pytest.mark.parametrize("name", FED)
def test_apple_gpus_without_float64_bear_every_score(name):
    with FakeTensorMode(), NoFloat64OnMps():
        first, second = seen_on("mps", name)
        first.add(second)
        if hasattr(first, "sums"):
            assert devices_of_sums(first) <= {"cpu"}


@pytest.mark.parametrize(("free", "device"), [(2**40, "cuda"), (2**20, "cpu")], ids=["much", "little"])
@pytest.mark.parametrize("name", ["spectrum", "activation"])
def test_sums_go_to_the_cpu_where_a_gpu_has_little_room(name, free, device, monkeypatch):
    monkeypatch.setattr(parts, "free_bytes", lambda _: free)
    with FakeTensorMode():
        first, second = seen_on("cuda", name)
        assert devices_of_sums(first) == {device}
        first.add(second)


def test_sums_of_a_site_go_to_the_cpu_together(monkeypatch):
    """Of a map with many inputs one sketch is 16 times as large as the other, and both make a profile."""
    wide = dataclasses.replace(SITE, in_features=4 * WIDTH)
    sizes = [4 * WIDTH * 256, 4 * 1024 * 4 * WIDTH]
    monkeypatch.setattr(parts, "free_bytes", lambda _: 256 * sum(sizes) // 2)  # between both
    with FakeTensorMode():
        first, _ = seen_on("cuda", "spectrum", wide)
        assert sorted(total.nbytes for total in first.sums[SITE.name]) == sizes
        assert devices_of_sums(first) == {"cpu"}


def test_halves_with_sums_on_two_devices_are_added_up(monkeypatch):
    with FakeTensorMode():
        monkeypatch.setattr(parts, "free_bytes", lambda _: 2**40)
        first, _ = seen_on("cuda", "spectrum")
        monkeypatch.setattr(parts, "free_bytes", lambda _: 0)
        _, second = seen_on("cuda", "spectrum")
        second.add(first)
        assert devices_of_sums(second) == {"cpu"}
        # The matrices that were drawn for the GPU serve the sums on the CPU.
        total = second.sums[SITE.name][0]
        assert first.profile.__self__._projection("out", total.T).device.type == "cpu"
