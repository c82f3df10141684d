"""A training that is not finished: its state lies beside the folder that it is for, until that is written."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopeft.errors import RunDirError
from autopeft.pipeline.fingerprint import differences, loaded_facts
from autopeft.pipeline.prepare import Prepared
from autopeft.records import Fidelity, Plan
from autopeft.store import read_checked, sweep_fresh_folders, without_empty_parents, write_checked
from autopeft.train import kept_step

_START, _STATE = "start.json", "state"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """The state of a training whose adapter goes to the folder `out`, in a folder beside it."""

    out: Path

    @property
    def folder(self) -> Path:
        """`<out>.unfinished`."""
        return self.out.absolute().with_name(f"{self.out.absolute().name}.unfinished")

    @property
    def state(self) -> Path:
        """Where the training keeps its state."""
        return self.folder / _STATE

    @property
    def step(self) -> int | None:
        """How many steps are done; None where nothing is kept."""
        return kept_step(self.state)

    @property
    def words(self) -> str:
        """What is kept of the training, as the end of a sentence."""
        if self.step is None:
            return "nothing was kept"
        return f"the state after step {self.step:,} is kept; the same command with --resume goes on from it"

    def check(self, *, resume: bool) -> None:
        """Raise RunDirError where there is nothing to resume, or something that the user did not ask for."""
        if resume and self.step is None:
            raise RunDirError(f"{self.folder} holds no unfinished training; start it without --resume.")
        if not resume and self.step is not None:
            raise RunDirError(
                f"{self.folder} holds a training that was stopped after step {self.step:,}; pass --resume to "
                "go on with it, another --out, or remove that folder."
            )

    @contextlib.contextmanager
    def kept(self, facts: Mapping[str, Any], *, resume: bool) -> Iterator[None]:
        """A context of the training: what it kept stays if something stops it, and is removed at its end.

        Raises:
            RunDirError: What is to be resumed was trained with other `facts`, or nothing can be written.
        """
        with without_empty_parents(self.folder):
            if resume:
                self._compare(facts)
                sweep_fresh_folders(self.out)
                log.info("The training goes on after step %s.", f"{self.step:,}")
            else:
                self.forget()
                write_checked(self.folder / _START, facts)
            try:
                yield
            except BaseException as error:
                if self.step is None:
                    self.forget()
                elif isinstance(error, Exception):  # a signal is told with the step that was reached
                    log.warning("No adapter was written, but %s.", self.words)
                raise
            self.forget()

    def forget(self) -> None:
        """Remove what is kept."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _compare(self, facts: Mapping[str, Any]) -> None:
        remedy = f"remove {self.folder} and start anew"
        try:
            before = read_checked(self.folder / _START, remedy=remedy)
        except FileNotFoundError as error:
            raise RunDirError(f"{self.folder / _START} is missing; {remedy}.") from error
        if differing := differences(before, facts, whose="now it is"):
            raise RunDirError(
                f"{self.folder} was trained with {differing}; put it back as it was, or {remedy}."
            )


def training_facts(prepared: Prepared, plan: Plan, fidelity: Fidelity) -> dict[str, Any]:
    """What the bits of a training depend on, by name."""
    return {
        **loaded_facts(prepared),
        "plan": plan.digest,
        "seed": fidelity.seed,
        "steps": fidelity.train_steps,
        "batch size": prepared.bench.batch_size,
        "number format": prepared.spec.execution.dtype,
        "quantisation": prepared.spec.model.quantize,
    }
