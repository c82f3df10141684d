"""The states of a search's paused runs: in memory, and on disk where they must outlive the process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError

from autopeft.model import BaseModel, free_bytes
from autopeft.records import Fidelity, Plan
from autopeft.train.pausing import State, read, write

Key = tuple[Plan, int]  # a plan and a seed

_SHARE = 0.25  # of the machine's free memory; chosen by hand
# On a CPU they lie beside the weights: so many bytes, or this share of those of the weights; chosen by hand.
_FEW_BYTES, _WEIGHTS_SHARE = 2**28, 0.05

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


def most_state_bytes(base: BaseModel) -> int:
    """How many bytes the states of paused runs may take in memory beside a base model."""
    share = int(_SHARE * free_bytes(torch.device("cpu")))
    if base.device.type != "cpu":
        return share
    return min(share, max(_FEW_BYTES, int(_WEIGHTS_SHARE * base.weight_bytes)))


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
