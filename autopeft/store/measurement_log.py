"""The log of measurements: one line each, on the disk at once, and a torn line costs only itself."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from autopeft.errors import RunDirError
from autopeft.records import Measurement, digest_of, from_json, to_json
from autopeft.store.files import cannot_write

log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """A measurement, and the seal of the weights that it kept; None where it kept none."""

    measurement: Measurement
    weights: str | None


class MeasurementLog:
    """A JSON Lines file of measurements, each with a checksum."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ends_with_whole_line = False

    def append(self, measurement: Measurement, *, weights: str | None = None) -> None:
        """Add a measurement, which is on the disk when this returns; RunDirError where it cannot be.

        `weights` is the seal of the weights that the measurement kept (see `checksums.seal_of`).
        """
        content: dict[str, Any] = {"measurement": to_json(measurement)}
        if weights is not None:
            content["weights"] = weights
        line = json.dumps({"sha256": _digest_of(content), **content}) + "\n"
        try:
            self._path.parent.mkdir(exist_ok=True)
            if not self._ends_with_whole_line:
                lines = list(self._lines())
                if lines and lines[-1][1] is None:  # half a line, to which the new one would be lost
                    os.truncate(self._path, sum(len(whole) for whole, _ in lines[:-1]))
            self._ends_with_whole_line = False  # while writing: a full disk leaves half a line
            with self._path.open("ab") as stream:
                stream.write(line.encode())
                stream.flush()
                os.fsync(stream.fileno())
            self._ends_with_whole_line = True
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def load(self) -> tuple[Measurement, ...]:
        """The last measurement of each plan and fidelity; damaged lines are skipped with a warning."""
        return tuple(entry.measurement for entry in self.entries())

    def every(self) -> tuple[Measurement, ...]:
        """All of them in the order in which they were made, several of one plan and fidelity too."""
        return tuple(entry.measurement for _, entry in self._lines() if entry is not None)

    def entries(self) -> tuple[Entry, ...]:
        """As `load`, each measurement with its seal."""
        entries = {}
        for number, (_, entry) in enumerate(self._lines(), start=1):
            if entry is None:
                log.warning("%s, line %d is damaged; it will be measured again.", self._path, number)
            else:
                entries[entry.measurement.plan, entry.measurement.fidelity] = entry
        return tuple(entries.values())

    def _lines(self) -> Iterator[tuple[bytes, Entry | None]]:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunDirError(f"{self._path} cannot be read: {error.strerror or error}.") from error
        for line in io.BytesIO(content):
            yield line, _entry_in(line)


def _entry_in(line: bytes) -> Entry | None:
    """The measurement of a line with what stands beside it; None where the line is torn or damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
        if content.pop("sha256") != _digest_of(content):
            return None
        return Entry(from_json(Measurement, content["measurement"]), content.get("weights"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError):
        return None


def _digest_of(content: dict[str, Any]) -> str:
    """Digest of a line: of its measurement alone where nothing stands beside it."""
    return digest_of(content if len(content) > 1 else content["measurement"])
