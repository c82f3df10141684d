"""RAY_ADDRESS: where there is no cluster, or one that cannot be joined, one sentence says so."""

from __future__ import annotations

import logging
import socket
import sys
import time
from types import SimpleNamespace

import pytest

from autopeft.errors import SpecError
from autopeft.executors.ray import _Cluster, ray_pool

# As Ray tells it, in `ray._private.utils.check_version_info`.
MISMATCH = """Version mismatch: The cluster was started with:
    Ray: 2.60.0
    Python: 3.11.7
This process on node 127.0.0.1 was started with:
    Ray: 2.60.0
    Python: 3.10.1
"""


def test_an_address_where_no_ray_cluster_answers_is_refused_at_once(monkeypatch):
    ray = ray_pool()
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
    pool = ray_pool()
    with pytest.raises(SpecError, match=told):
        pool.start(None, local=None, n_workers=1)
    pool.shutdown()


def test_a_lost_head_is_told_with_what_to_do_before_ray_ends_the_process(monkeypatch, caplog):
    """The stand-in for a head is a port that is closed; once it is told, it is not told again."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as head, caplog.at_level(logging.ERROR):
        address = f"127.0.0.1:{head.getsockname()[1]}"
        ray = SimpleNamespace(
            is_initialized=lambda: True,
            cluster_resources=lambda: {"CPU": 1.0},
            get_runtime_context=lambda: SimpleNamespace(gcs_address=address),
        )
        monkeypatch.setitem(sys.modules, "ray", ray)
        cluster = _Cluster(watch_seconds=0.01)
        cluster.open(1, uses_gpu=False)
        for _ in range(3):
            head.accept()[0].close()  # three looks that were answered
        assert caplog.messages == []
    deadline = time.monotonic() + 10
    while not caplog.messages and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    cluster.close()
    (told,) = caplog.messages
    assert told.startswith(f"The head of the Ray cluster at {address} does not answer.")
    assert told.endswith("What was measured is kept: start the cluster anew, and continue with --resume.")
