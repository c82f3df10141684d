"""RAY_ADDRESS: where there is no cluster, or one that cannot be joined, one sentence says so."""

from __future__ import annotations

import socket
import sys
from types import SimpleNamespace

import pytest

from autopeft.errors import SpecError
from autopeft.executors import EXECUTORS

# As Ray tells it, in `ray._private.utils.check_version_info`.
MISMATCH = """Version mismatch: The cluster was started with:
    Ray: 2.60.0
    Python: 3.11.7
This process on node 127.0.0.1 was started with:
    Ray: 2.60.0
    Python: 3.10.1
"""


def test_an_address_where_no_ray_cluster_answers_is_refused_at_once(monkeypatch):
    ray = EXECUTORS["ray"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setitem(sys.modules, "ray", None)  # not connected, and not even imported
        ray.check()
    with pytest.raises(SpecError, match=rf"RAY_ADDRESS is {address}, .* \(Connection refused\); start one"):
        ray.check()
    monkeypatch.setenv("RAY_ADDRESS", f"ray://{address}0000")
    with pytest.raises(SpecError, match="RAY_ADDRESS is ray://"):
        ray.check()
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    ray.check()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError(MISMATCH), "Version mismatch: The cluster .* Python: 3.11.7 This .* Python: 3.10.1.$"),
        (ValueError("Invalid address format: foo"), "RAY_ADDRESS is foo, .* join it: Invalid address format"),
        (ConnectionError("Could not find any running Ray instance."), "running Ray instance.$"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_refused_in_a_sentence(error, told, monkeypatch):
    def init(*_, **__):
        raise error

    ray = SimpleNamespace(init=init, is_initialized=lambda: False, shutdown=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("RAY_ADDRESS", "foo")
    pool = EXECUTORS["ray"]
    with pytest.raises(SpecError, match=told):
        pool.start(print, local=None, n_workers=1, uses_gpu=False)
    pool.shutdown()
