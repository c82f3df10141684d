"""What a search that a signal interrupts says of its folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from autopeft.errors import AutopeftError
from autopeft.records import RunSpec, resume_command
from autopeft.store import RunDir

log = logging.getLogger(__name__)


@contextlib.contextmanager
def logging_how_to_resume(spec: RunSpec, out: Path) -> Iterator[None]:
    """A context that a signal may end; the command that continues is logged if the run has measurements.

    For a finished run to which nothing was added, the log says that its result is unchanged.
    """
    before = _finished_state(out)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if before is not None and _finished_state(out) == before:
            message = "Stopped; the run is finished, and its result is unchanged; go over it with: %s"
            log.warning(message, resume_command(spec, out))
            raise
        with contextlib.suppress(AutopeftError):  # there is no run in the folder yet
            if RunDir.open(out).measurements.load():
                log.warning("Stopped; continue with: %s", resume_command(spec, out))
        raise


def _finished_state(out: Path) -> tuple[RunSpec, int] | None:
    """The settings of a finished run and the number of its measurements; None for any other."""
    with contextlib.suppress(AutopeftError):
        run = RunDir.open(out)
        if run.is_finished:
            return run.read_spec(), len(run.measurements.load())
    return None
