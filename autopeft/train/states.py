"""The states of paused runs, in memory and on disk, and of a run under way, should something stop it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError

from autopeft.records import Fidelity, Plan
from autopeft.train.pausing import State, read, write

Key = tuple[Plan, int]  # a plan and a seed

_SECONDS = 60.0  # between two states of a run at least; chosen by hand
_SHARE = 0.01  # of the time, at most, that keeping the states of a run takes; chosen by hand

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StateFolders:
    """Gives the folders for states of trainings; None keeps none on the disk.

    Attributes:
        paused: Of a plan and a seed: for the state of its rungs, which memory does not hold or another
            process takes up. None trains every rung from the start.
        under_way: Of a plan and a fidelity: for the state of a run that something may stop.
    """

    paused: Callable[[Plan, int], Path] | None = None
    under_way: Callable[[Plan, Fidelity], Path] | None = None


@dataclass(kw_only=True)
class RungStates:
    """The state of each plan and seed whose next rung may resume it.

    States stay in the memory of this process. Beyond `max_bytes` the oldest go to the disk. A process that is
    killed loses those in memory, and then the next rung starts anew, with the same numbers.

    Attributes:
        folder: Gives the folder for the state of a plan and a seed.
        max_bytes: Most bytes of all states in memory together; 0 writes each of them.
    """

    folder: Callable[[Plan, int], Path]
    max_bytes: int
    _kept: dict[Key, State] = field(default_factory=dict)  # the oldest first

    def load(self, plan: Plan, seed: int) -> State | None:
        """The latest state of a plan and seed, of an earlier process too; None if there is none."""
        return self._kept.get((plan, seed)) or read(self.folder(plan, seed))

    def keep(self, plan: Plan, seed: int, state: State) -> None:
        """Keep a state instead of the one before it."""
        self._kept.pop((plan, seed), None)
        self._kept[plan, seed] = state
        while self._kept and sum(kept.n_bytes for kept in self._kept.values()) > self.max_bytes:
            self._write(next(iter(self._kept)))

    def forget(self, plans: Collection[Plan]) -> None:
        """Drop the states of plans that no later rung continues."""
        for key in [key for key in self._kept if key[0] in plans]:
            del self._kept[key]

    def write(self) -> None:
        """Write all states from memory to the disk, for a process that resumes the search."""
        while self._kept:
            self._write(next(iter(self._kept)))

    def _write(self, key: Key) -> None:
        """Move a state to the disk; if the disk does not take it, the next rung starts anew."""
        folder = self.folder(*key)
        try:
            write(self._kept.pop(key), folder)
        except (OSError, SafetensorError) as error:
            log.warning("The state of a paused run was not kept, its next rung starts anew: %s", error)


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
