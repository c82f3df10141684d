"""The state of a run under way, on disk, should something stop it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from autopeft.train.pausing import State, read, write

_SECONDS = 60.0  # between two states of a run at least; chosen by hand
_SHARE = 0.01  # of the time, at most, that keeping the states of a run takes; chosen by hand

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class UnderWay:
    """Keeps the latest state of one training run in a folder, a minute or more apart.

    A run of less than a minute writes nothing. Where writing is slow, states are further apart, so that it
    takes a hundredth of the time; one that cannot be written is told and costs the run nothing.
    """

    folder: Path
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        """Time runs from now on."""
        self._last, self._apart, self._is_long = self.clock(), _SECONDS, False

    def load(self) -> State | None:
        """The state that an earlier process kept; None if there is none."""
        state = read(self.folder)
        self._is_long = state is not None
        return state

    def is_due(self, *, is_last: bool) -> bool:
        """Whether a state is to be kept now; after the last step of a long run it always is."""
        return self.clock() - self._last >= self._apart or (is_last and self._is_long)

    def keep(self, state: State) -> None:
        """Write a state instead of the one before it."""
        began = self.clock()
        try:
            write(state, self.folder)
        except (OSError, SafetensorError) as error:
            log.warning("The state of the training was not kept: %s", error)
        self._last, self._is_long = self.clock(), True
        self._apart = max(_SECONDS, (self._last - began) / _SHARE)
