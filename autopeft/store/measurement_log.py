"""The log of measurements: one line each, on the disk at once, and a torn line costs only itself."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from autopeft.errors import RunDirError
from autopeft.records import Measurement, digest_of, from_json, to_json
from autopeft.store.files import cannot_write

log = logging.getLogger(__name__)


class MeasurementLog:
    """A JSON Lines file of measurements, each with a checksum."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ends_with_whole_line = False

    def append(self, measurement: Measurement) -> None:
        """Add a measurement, which is on the disk when this returns; RunDirError where it cannot be."""
        content = to_json(measurement)
        line = json.dumps({"sha256": digest_of(content), "measurement": content}) + "\n"
        try:
            self._path.parent.mkdir(exist_ok=True)
            if not self._ends_with_whole_line:
                self._cut_torn_line()
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
        measurements = {}
        for number, (_, measurement) in enumerate(self._lines(), start=1):
            if measurement is None:
                log.warning("%s, line %d is damaged; it will be measured again.", self._path, number)
            else:
                measurements[measurement.plan, measurement.fidelity] = measurement
        return tuple(measurements.values())

    def _lines(self) -> Iterator[tuple[bytes, Measurement | None]]:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunDirError(f"{self._path} cannot be read: {error.strerror or error}.") from error
        for line in io.BytesIO(content):
            yield line, _measurement_in(line)

    def _cut_torn_line(self) -> None:
        """Remove half a line at the end: a line that is appended to it would be lost."""
        lines = list(self._lines())
        if lines and lines[-1][1] is None:
            os.truncate(self._path, sum(len(line) for line, _ in lines[:-1]))


def _measurement_in(line: bytes) -> Measurement | None:
    """The measurement of a line; None where the line is torn or damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
        if content["sha256"] != digest_of(content["measurement"]):
            return None
        return from_json(Measurement, content["measurement"])
    except (ValueError, KeyError, TypeError, ValidationError):
        return None
