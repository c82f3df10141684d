"""A Ray cluster that cannot be joined is refused in one sentence."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from autopeft.errors import SpecError
from autopeft.executors import EXECUTORS


def test_a_cluster_that_cannot_be_joined_is_refused_in_a_sentence(monkeypatch):
    def init(*_, **__):
        raise ValueError("Invalid address\nformat: foo")

    ray = SimpleNamespace(init=init, is_initialized=lambda: False, shutdown=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("RAY_ADDRESS", "foo")
    pool = EXECUTORS["ray"]
    with pytest.raises(SpecError, match="RAY_ADDRESS") as refused:
        pool.start(print, local=None, n_workers=1, uses_gpu=False)
    pool.shutdown()
    assert "\n" not in str(refused.value)
