"""The ledger of a search: its workers, what it knows already, and where it records what is new."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping

from autopeft.engine import Ledger, Progress
from autopeft.executors import EXECUTORS
from autopeft.pipeline.measured import record
from autopeft.pipeline.prepare import Prepared
from autopeft.pipeline.working import start_workers
from autopeft.records import Fidelity, Measurement, Plan
from autopeft.store import RunDir
from autopeft.train import Bench


@contextlib.contextmanager
def ledger_of(
    run: RunDir,
    prepared: Prepared,
    bench: Bench,
    *,
    known: Mapping[tuple[Plan, Fidelity], Measurement],
    progress: Progress,
    clock: Callable[[], float],
) -> Iterator[Ledger]:
    """A context with the ledger of a run, whose workers end with it.

    What stopped the search (the time limit, a signal) leaves the states of paused runs on the disk, and a
    resumed search takes them up.
    """
    executor = EXECUTORS[prepared.spec.execution.executor]
    try:
        yield Ledger(
            executor=executor,
            measure=start_workers(executor, run, prepared, bench),
            progress=progress,
            interrupt=bench.interrupt,
            known=known,
            record=lambda measurement: record(run, measurement),
            release=lambda plans: _forget(run, bench, plans),
            clock=clock,
            limit_seconds=prepared.spec.search.max_time_seconds,
        )
    finally:
        executor.shutdown()
        if bench.states is not None:
            bench.states.write()


def _forget(run: RunDir, bench: Bench, plans: Collection[Plan]) -> None:
    """Drop the paused training of plans that no later rung continues, in memory and on the disk."""
    if bench.states is not None:
        bench.states.forget(plans)
    run.forget_paused(plans)
