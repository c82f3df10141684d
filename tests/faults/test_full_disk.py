"""A disk that fills up: an error, and after it is freed a run equal to the unbroken one.

A limit on the size of a file simulates the disk: writing beyond it fails as on a full one.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from pathlib import Path

import pytest
from toys.reading import rows_of
from toys.specs import run_spec

from autopeft import commands
from autopeft.errors import AutopeftError, RunDirError
from autopeft.exports import write_loading_files
from autopeft.report.progress import Lines
from autopeft.setup.build import prepare

resource = pytest.importorskip("resource")


def at_night(*values):
    """Cases that by day are left out."""
    cases = (value if isinstance(value, tuple) else (value,) for value in values)
    return [pytest.param(*case, marks=pytest.mark.nightly) for case in cases]


@contextlib.contextmanager
def room_for(n_bytes):
    """A context in which no file grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def finish(spec):
    """Resume a search, or start it where it left nothing."""
    out = Path(spec.output.out)
    if (out / "run.yaml").exists():
        commands.run_search(run_spec(out=out), resume=True, progress=Lines())
    else:
        commands.run_search(spec, progress=Lines())


# Too small for scores, study, log of measurements, and the report.
@pytest.mark.parametrize("n_bytes", [60_000, *at_night(2_000, 90_000, 110_000)])
def test_a_full_disk_is_reported_and_costs_nothing(small_spec, finished, tmp_path, n_bytes):
    out = tmp_path / "run"
    spec = small_spec(out, methods="ia3,lora")
    with room_for(n_bytes), pytest.raises((AutopeftError, OSError)):
        commands.run_search(spec, progress=Lines())
    finish(spec)
    assert rows_of(out) == rows_of(finished)
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("name", "number", "n_good"),
    [
        ("fsync", errno.EIO, 3),
        *at_night(("fsync", errno.EIO, 0), ("fsync", errno.EIO, 8), ("fsync", errno.EIO, 15)),
        *at_night(("replace", errno.ENOSPC, 2), ("replace", errno.ENOSPC, 9)),
    ],
)
def test_a_disk_that_fails_is_reported_and_costs_nothing(
    small_spec, finished, tmp_path, monkeypatch, name, number, n_good
):
    spec, whole = small_spec(tmp_path / "run", methods="ia3,lora"), getattr(os, name)
    n_calls = itertools.count()

    def failing(*arguments):
        if next(n_calls) >= n_good:
            raise OSError(number, os.strerror(number))
        return whole(*arguments)

    monkeypatch.setattr(os, name, failing)
    with pytest.raises(AutopeftError, match=os.strerror(number)):
        commands.run_search(spec, progress=Lines())
    monkeypatch.setattr(os, name, whole)
    finish(spec)
    assert rows_of(tmp_path / "run") == rows_of(finished)


def test_a_tokenizer_that_cannot_be_written_is_reported(small_spec, tmp_path):
    prepared = prepare(small_spec(tmp_path / "run"))
    (tmp_path / "weights").mkdir()
    with room_for(2_000), pytest.raises(RunDirError, match="weights cannot be written"):
        write_loading_files(tmp_path / "weights", prepared.spec.model, prepared.base, prepared.data)
