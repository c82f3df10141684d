"""The outcome depends on the seed and the measurements, and not on workers or on a stop."""

from __future__ import annotations

from functools import cache

import pytest
from toys.engine import Run, Threads, World, levels, run

from autopeft.executors import Serial
from autopeft.types import Fidelity, Measurement, Plan, Status

SETTINGS = {"trials": 8, "seeds": 2, "sizes": 2}
TRUTH = levels({"ia3": 0.58}, hira=0.3)


@cache
def unbroken() -> Run:
    return run(TRUTH, **SETTINGS)


def test_several_workers_give_the_same_outcome() -> None:
    world = World(truth=TRUTH, first_waits=True)
    with Threads() as executor:
        search = run(world, executor=executor, **SETTINGS)
    assert search.outcome == unbroken().outcome
    assert sorted(map(hash, search.world.calls)) == sorted(map(hash, unbroken().world.calls))


def test_another_seed_proposes_other_plans() -> None:
    plans = [{p.plan for p in run(TRUTH, **SETTINGS, seed=seed).outcome.proposals} for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]


@pytest.mark.parametrize("n_done", range(0, 21, 3))
def test_a_search_that_was_stopped_resumes_to_the_same_outcome_and_repeats_nothing(n_done: int) -> None:
    class Stops(World):
        def measure(self, plan: Plan, fidelity: Fidelity) -> Measurement:
            if len(records) == n_done:
                raise KeyboardInterrupt
            return super().measure(plan, fidelity)

    records: list[Measurement] = []
    with pytest.raises(KeyboardInterrupt):
        run(Stops(truth=TRUTH), records=records, **SETTINGS)
    assert len(records) == n_done
    resumed = run(TRUTH, known=records, **SETTINGS)
    assert resumed.outcome == unbroken().outcome
    assert records + resumed.records == unbroken().records
    assert not {(m.plan, m.fidelity) for m in records} & set(resumed.world.calls)


def test_a_run_under_a_limit_of_cost_resumes_to_the_same_outcome() -> None:
    limited = run(TRUTH, max_cost=5.0, **SETTINGS)
    assert len(limited.records) < len(unbroken().records)
    for n_known in range(0, len(limited.records), 2):
        resumed = run(TRUTH, known=limited.records[:n_known], max_cost=5.0, **SETTINGS)
        assert resumed.outcome == limited.outcome
        assert len(resumed.world.calls) == len(limited.records) - n_known


# Of four short runs, one that the machine broke off is not in the log.
@pytest.mark.parametrize(("executor", "missing"), [(Serial, None), (Threads, None), (Serial, 1)])
def test_under_a_short_deadline_all_that_was_measured_is_used(executor, missing) -> None:
    settings = {**SETTINGS, "trials": 4}
    known = [m for index, m in enumerate(run(TRUTH, **settings).records) if index != missing]
    resumed = run(TRUTH, known=known, executor=executor(), max_seconds=0.001, **settings)
    assert list(resumed.outcome.measurements) == known and not resumed.world.calls
    assert resumed.outcome.verdict == run(TRUTH, **settings).outcome.verdict


def test_each_measurement_is_recorded_before_the_next_begins_and_shown_in_order() -> None:
    records: list[Measurement] = []
    n_before: list[int] = []

    def measure(plan, fidelity):
        n_before.append(len(records))
        return TRUTH(plan, fidelity)

    search = run(measure, records=records, **SETTINGS)
    assert n_before == list(range(len(records)))
    assert records == list(search.outcome.measurements) == search.display.shown
    assert all(m.status is Status.COMPLETE for m in records)
