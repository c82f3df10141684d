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
    """A context that a signal may end; the command that continues is logged if the run has measurements."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        with contextlib.suppress(AutopeftError):  # there is no run in the folder yet
            if RunDir.open(out).measurements.load():
                log.warning("Stopped; continue with: %s", resume_command(spec, out))
        raise
