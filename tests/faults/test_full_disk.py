"""A disk that fills up: one sentence, and a run that is equal to the unbroken one once there is room again.

A limit on the size of a file stands for the disk: writing beyond it fails as on a full one.
"""

from __future__ import annotations

import contextlib

import pytest
from toys.reading import rows_of
from toys.specs import run_spec

from autopeft import pipeline
from autopeft.cli.progress import Silent
from autopeft.errors import AutopeftError

resource = pytest.importorskip("resource")
GIVEN = frozenset({"search.trials", "confirm.seeds"})


@contextlib.contextmanager
def room_for(n_bytes):
    """A context in which no file grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Too small for scores, study, log of measurements, and the report.
@pytest.mark.parametrize("n_bytes", [2_000, 60_000, 90_000, 150_000])
def test_a_full_disk_is_said_and_costs_nothing(small_spec, finished, tmp_path, n_bytes):
    out = tmp_path / "run"
    spec = small_spec(out, methods="ia3,lora")
    with (
        room_for(n_bytes),
        pytest.raises((AutopeftError, OSError), match=r"cannot be (written|opened)|failed|too large"),
    ):
        pipeline.search(spec, given=GIVEN, progress=Silent())
    if (out / "run.yaml").exists():
        pipeline.search(run_spec(out=out), resume=True, progress=Silent())
    else:
        pipeline.search(spec, given=GIVEN, progress=Silent())
    assert rows_of(out) == rows_of(finished)
    assert not list(out.rglob("*.tmp"))
