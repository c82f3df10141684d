"""A Ray cluster that cannot be joined is refused in one sentence."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from autopeft.errors import SpecError
from autopeft.executors import EXECUTORS

# As raised by `ray._private.utils.check_version_info`.
MISMATCH = """Version mismatch: The cluster was started with:
    Ray: 2.60.0
    Python: 3.11.7
This process on node 127.0.0.1 was started with:
    Ray: 2.60.0
    Python: 3.10.1
"""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError(MISMATCH), "Version mismatch: The cluster .* Python: 3.11.7 This .* Python: 3.10.1.$"),
        (ValueError("Invalid address format: foo"), "RAY_ADDRESS is foo, .* join it: Invalid address format"),
        (ConnectionError("Could not find any running Ray instance."), "running Ray instance.$"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_refused_in_a_sentence(error, words, monkeypatch):
    def init(*_, **__):
        raise error

    ray = SimpleNamespace(init=init, is_initialized=lambda: False, shutdown=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("RAY_ADDRESS", "foo")
    pool = EXECUTORS["ray"]
    with pytest.raises(SpecError, match=words):
        pool.start(print, local=None, n_workers=1, uses_gpu=False)
    pool.shutdown()
