"""A worker behind a database that knows functions of tests: `python -m toys.serving`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autopeft.errors import AutopeftError, TrainingError
from autopeft.executors.parts import MEASURING, Database, database_url, name_of, serve

Function = Callable[..., object]

SERVING = (sys.executable, "-m", "toys.serving")
HANGS = 600.0  # seconds without an answer that are no slow machine any more


@dataclass(frozen=True)
class Answering:
    """Makes a function that says in which process it runs."""

    def __call__(self, index: int) -> Function:
        return lambda value: (os.getpid(), value)


@dataclass(frozen=True)
class DyingOnce:
    """Makes a function that ends its process the first time that it is called with a name."""

    folder: Path

    def __call__(self, index: int) -> Function:
        def work(name: str) -> str:
            try:
                (self.folder / name).touch(exist_ok=False)
            except FileExistsError:
                return f"{name} again"
            os.kill(os.getpid(), signal.SIGKILL)

        return work


@dataclass(frozen=True)
class Dying:
    """Makes a function that ends its process."""

    def __call__(self, index: int) -> Function:
        return lambda: os._exit(3)


@dataclass(frozen=True)
class Waiting:
    """Makes a function that writes the id of its worker, and ends when the folder has a file `go`."""

    folder: Path

    def __call__(self, index: int) -> Function:
        def work(number: int) -> int:
            (self.folder / f"{os.getppid()}").touch()
            while not (self.folder / "go").exists():
                time.sleep(0.02)
            return number + 1

        return work


@dataclass(frozen=True)
class Refusing:
    """Makes nothing: it cannot begin."""

    def __call__(self, index: int) -> Function:
        raise TrainingError("no model here")


# This file is `__main__` in a worker.
KNOWN = {f"toys.serving:{part.__name__}" for part in (Answering, DyingOnce, Dying, Waiting, Refusing)}
KNOWN |= {name_of(pow), name_of(int)}


def main() -> int:
    """Serve one search; the exit code and the sentence are those of the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    try:
        print("calls:", serve(Database(database_url()), MEASURING | KNOWN))
    except AutopeftError as error:
        print(f"error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
