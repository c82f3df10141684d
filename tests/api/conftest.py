"""A model object as a user has it, and one search with everything in memory."""

from __future__ import annotations

import datasets
import pytest
import torch
from toys.bases import state_of
from toys.memory import SMALL, toy_dataset, weights_of

import autopeft


@pytest.fixture
def module(make_base):
    """A classifier as a user has it: in training mode, some of it frozen, a gradient somewhere."""
    module = make_base("bert").module.requires_grad_(True).train()
    first, second, *_ = module.parameters()
    first.requires_grad_(False)
    second.grad = torch.ones_like(second)
    return module


@pytest.fixture(scope="session")
def run(make_base, tokenizer, tmp_path_factory):
    """One search with everything in memory: the module, the state before, and the result."""
    module = make_base("bert").module.requires_grad_(True).train()
    before = weights_of(module), state_of(module), module.config.to_dict()
    data = datasets.DatasetDict(train=toy_dataset(), validation=toy_dataset(40, 1), test=toy_dataset(40, 2))
    out = tmp_path_factory.mktemp("memory") / "run"
    result = autopeft.search(model=module, data=data, tokenizer=tokenizer, out=out, **SMALL)
    return module, before, result, data
