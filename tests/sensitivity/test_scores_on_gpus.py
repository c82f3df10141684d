"""Scores on Apple's GPUs, which have no float64: on tensors that have a device and no numbers."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toys.sensitivity import SCORES

from autopeft.types import Target


class NoFloat64OnMps(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == "mps":
                assert leaf.dtype != torch.float64, f"{func} returns float64 on MPS"
        return result


@pytest.mark.parametrize("name", [name for name, score in SCORES.items() if score.reads_examples])
def test_scores_need_no_float64(name):
    target = Target(
        name="layers.0.q", layer=0, role="q", kind="linear", in_features=32, out_features=32, has_bias=True
    )
    with FakeTensorMode(), NoFloat64OnMps():
        module = torch.nn.Linear(1, 1)  # on the CPU: values cannot be drawn on a missing device
        module.in_features = module.out_features = 32
        module.weight = torch.nn.Parameter(torch.empty(32, 32, device="mps"))
        inputs, gradient = (torch.empty(2, 3, 32, device="mps") for _ in range(2))
        assert SCORES[name].value(target, module, inputs, gradient).device.type == "mps"
