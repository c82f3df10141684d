"""Looks after every seed: error rates by simulation, exact results, agreement of label and interval."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from toys.metrics import ACCURACY, LOSS

from autopeft.errors import SpecError
from autopeft.evidence import look, paired_interval, sequential_verdict, verdict_on_diverged
from autopeft.evidence.bounds import BETTER, MAX_SEEDS, OPEN, WORSE, Design
from autopeft.evidence.sequential import find_stops
from autopeft.evidence.variance import Floats, half_width, moments


def confirmations(n_runs: int, n_seeds: int, *, gain: float, by_example: float, seed: int) -> Floats:
    """Differences (runs, S, 40): seeds of standard deviation 1, examples' mean of `by_example`."""
    draw = np.random.default_rng(seed).standard_normal
    examples = by_example * math.sqrt(40) * draw((n_runs, 1, 40))
    table: Floats = gain + draw((n_runs, n_seeds, 1)) + examples + 0.1 * draw((n_runs, n_seeds, 40))
    return table


def unadjusted(tables: Floats) -> tuple[Floats, Floats, Floats]:
    """Label (1, -1, 0), low and high of the interval of one look, taken after every seed from the third."""
    n_runs, n_seeds, _ = tables.shape
    low, high, label = np.zeros((3, n_runs))
    for k in range(3, n_seeds + 1):
        squares = moments(tables[:, :k]).squares(np.ones(k), pseudo=(), floor=0.0)
        half, is_open = half_width(squares, 0.05), label == 0
        low, high = np.where(is_open, squares.mean - half, low), np.where(is_open, squares.mean + half, high)
        label = np.where(is_open, (low > 0) * 1.0 - (high < 0) * 1.0, label)
    return label, low, high


# Guarantees, by simulation. The same draws show that looks without adjustment err more often.


@pytest.mark.parametrize(("n_seeds", "n_runs"), [(4, 4000), (6, 4000), (10, 600)])
@pytest.mark.parametrize("by_example", [0.0, 0.15, 1.0])
def test_alike_plans_are_called_different_in_5_percent(n_seeds: int, n_runs: int, by_example: float) -> None:
    tables = confirmations(n_runs, n_seeds, gain=0.0, by_example=by_example, seed=n_seeds)
    seen = find_stops(moments(tables), Design(planned_seeds=n_seeds, margin=0.01, span=None))
    error = 3 * math.sqrt(0.05 * 0.95 / n_runs)
    assert np.isin(seen.code, [BETTER, WORSE]).mean() <= 0.05 + error
    assert (seen.code == BETTER).mean() <= 0.025 + error / math.sqrt(2)
    assert 0.93 <= ((seen.low <= 0) & (seen.high >= 0)).mean() <= 0.98


def test_the_simulation_sees_that_unadjusted_looks_are_wrong() -> None:
    tables = confirmations(4000, 10, gain=0.0, by_example=0.0, seed=10)
    label, low, high = unadjusted(tables)
    assert (label == 1).mean() > 0.06  # at most 0.025 was promised
    assert ((low < 0) & (high > 0)).mean() < 0.88


@pytest.mark.parametrize("gain", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("by_example", [0.0, 0.5])
def test_stopped_intervals_cover_a_gain_and_the_mean_is_unbiased(gain: float, by_example: float) -> None:
    tables = confirmations(3000, 6, gain=gain, by_example=by_example, seed=int(gain))
    seen = find_stops(moments(tables), Design(planned_seeds=6, margin=0.01, span=None))
    assert 0.93 <= ((seen.low < gain) & (gain < seen.high)).mean() <= 0.98
    assert abs(seen.unbiased.mean() - gain) <= 0.06 * seen.unbiased.std()  # its own error: 0.018
    if gain == 4:
        assert seen.n_seeds.mean() < 4.5


def test_the_plain_mean_is_biased_where_the_adjusted_one_is_not() -> None:
    tables = confirmations(n_runs := 2400, 10, gain=1.0, by_example=0.0, seed=3)
    seen = find_stops(moments(tables), Design(planned_seeds=10, margin=0.01, span=None))
    reached = tables.mean(axis=(1, 2))  # of all ten seeds, which nobody chose
    plain, adjusted = seen.mean - reached, seen.unbiased - reached
    assert plain.mean() > 3 * plain.std() / math.sqrt(n_runs)
    assert abs(adjusted.mean()) < 3 * adjusted.std() / math.sqrt(n_runs)


# Exact results.


def test_the_unbiased_mean_is_exactly_that_over_all_draws_of_seeds() -> None:
    """Every sequence of four seeds out of five possible ones; the rule stops many of them at three."""
    seeds = np.array([0.1, 0.12, 0.11, -0.05, 0.3])
    wave = 0.001 * np.array([1.0, -1.0, 2.0, -2.0, 0.0, 0.0])
    sequences = np.array(list(itertools.product(range(5), repeat=4)))
    tables = seeds[sequences][:, :, None] + np.outer(np.arange(5), wave)[sequences]
    seen = find_stops(moments(tables), Design(planned_seeds=4, margin=0.01, span=None), floor=1e-12)
    assert 20 < (seen.n_seeds == 3).sum() < 600
    assert seen.unbiased.mean() == pytest.approx(seeds.mean(), abs=1e-12)
    assert abs(seen.mean.mean() - seeds.mean()) > 1e-4


def test_the_unbiased_mean_is_the_average_over_orders_that_go_on() -> None:
    rng = np.random.default_rng(19)
    table = 1.5 + rng.standard_normal((5, 1)) + 0.2 * rng.standard_normal((5, 20))
    design = Design(planned_seeds=5, margin=0.01, span=None)
    goes_on = {
        chosen: find_stops(moments(table[None, list(chosen), :]), design).code[0] == OPEN
        for k in (3, 4)
        for chosen in itertools.combinations(range(5), k)
    }
    first = [
        table[list(order[:3])].mean()
        for order in itertools.permutations(range(5))
        if goes_on[tuple(sorted(order[:3]))] and goes_on[tuple(sorted(order[:4]))]
    ]
    seen = find_stops(moments(table[None]), design)
    assert seen.n_seeds[0] == 5 and 0 < len(first) < 120
    assert seen.unbiased[0] == pytest.approx(np.mean(first))


def test_two_planned_seeds_are_one_look() -> None:
    rng = np.random.default_rng(0)
    best, baseline = rng.normal(size=(2, 2, 50))
    seen, once = (
        look(best, baseline, planned_seeds=2, margin=0.01, span=None),
        paired_interval(best, baseline, span=None, pool=[best, baseline]),
    )
    assert seen.interval is not None
    assert (seen.reason, seen.interval.mean) == ("planned", pytest.approx(once.mean))
    assert (seen.interval.low, seen.interval.high) == pytest.approx((once.low, once.high), rel=1e-3)


def test_subsets_of_the_seeds_have_the_mean_squares_of_their_rows() -> None:
    table = np.random.default_rng(1).normal(size=(5, 12))
    some = table[[0, 2, 3]]
    squares = moments(table).squares([1, 0, 1, 1, 0], pseudo=(), floor=0.0)
    rows, columns = some.mean(axis=1), some.mean(axis=0)
    rest = some - rows[:, None] - columns + some.mean()
    assert squares.mean == pytest.approx(some.mean())
    assert squares.seed == pytest.approx(12 * rows.var(ddof=1))
    assert squares.example == pytest.approx(3 * columns.var(ddof=1))
    assert squares.residual == pytest.approx((rest**2).sum() / 22)


def test_a_confirmation_that_ends_early_may_be_judged_as_if_it_was_planned_so() -> None:
    """No bound on the way to n seeds is looser where more than n are planned."""
    table = np.random.default_rng(3).normal(size=(9, 10))
    for planned in range(3, MAX_SEEDS):
        less = Design(planned_seeds=planned, margin=0.01)
        more = Design(planned_seeds=planned + 1, margin=0.01)
        for k in range(3, planned + 1):
            squares = moments(table[:k]).squares(np.ones(k), pseudo=(), floor=0.0)
            assert more.tail(squares, 0.05) <= less.tail(squares, 0.05)


# Agreement of labels and intervals.


@st.composite
def score_pairs(draw: st.DrawFn, elements: st.SearchStrategy[float]) -> tuple[Floats, Floats]:
    shape = draw(st.tuples(st.integers(2, 5), st.integers(2, 30)))
    best, baseline = (draw(arrays(np.float64, shape, elements=elements)) for _ in range(2))
    return best, baseline


@given(
    score_pairs(st.sampled_from([0.0, 1.0])),
    st.sampled_from([0.01, 0.3]),
    st.integers(0, 2),
)
def test_label_and_interval_say_the_same(pair: tuple[Floats, Floats], margin: float, more: int) -> None:
    planned = len(pair[0]) + more
    seen = look(*pair, planned_seeds=planned, margin=margin)
    assert seen.interval is not None and seen.interval_90 is not None
    low, high = seen.interval.low, seen.interval.high
    assert -1 <= low <= seen.interval.mean <= high <= 1
    assert high - low >= 1 / pair[0].shape[1]
    assert (seen.label == "better") == (low > 0 and seen.is_decided)
    assert (seen.label == "worse") == (high < 0 and seen.is_decided)
    if seen.label == "equivalent":
        assert -margin < seen.interval_90[0] and seen.interval_90[1] < margin


@given(score_pairs(st.floats(-1e4, 1e4)))
def test_swapping_the_plans_mirrors_the_look(pair: tuple[Floats, Floats]) -> None:
    best, baseline = pair
    there = look(best, baseline, planned_seeds=5, margin=0.01, span=None)
    back = look(baseline, best, planned_seeds=5, margin=0.01, span=None)
    mirrored = {"better": "worse", "worse": "better"}.get(there.label, there.label)
    assert (back.label, back.is_decided, back.n_seeds) == (mirrored, there.is_decided, there.n_seeds)
    assert there.interval is not None and back.interval is not None
    scale = max(1.0, abs(there.interval.high), abs(there.interval.low))
    assert (there.interval.low, there.interval.high) == pytest.approx(
        (-back.interval.high, -back.interval.low), abs=1e-6 * scale
    )
    assert there.interval.low < there.interval.high


def pair_of(gains: list[float], n_examples: int = 1000, wave: float = 0.01) -> tuple[Floats, Floats]:
    """Unbounded differences of these means by seed, alike on all seeds but for them."""
    noise = np.tile([wave, -wave], n_examples // 2)
    return np.array(gains)[:, None] + noise, np.zeros((len(gains), n_examples))


def test_a_clear_gain_stops_at_three_seeds_and_later_seeds_change_nothing() -> None:
    gains = [0.5, 0.51, 0.49, -3.0, -3.0]
    looks = [look(*pair_of(gains[:k]), planned_seeds=5, margin=0.01, span=None) for k in range(1, 6)]
    assert [seen.is_decided for seen in looks] == [False, False, True, True, True]
    assert looks[2].label == "better"
    assert [(seen.n_seeds, seen.label) for seen in looks[3:]] == [(3, "better"), (3, "better")]


def test_all_planned_seeds_are_used_where_they_scatter() -> None:
    gains = [1.0, -0.2, 0.4, 0.6, 0.1]
    looks = [look(*pair_of(gains[:k]), planned_seeds=5, margin=0.01, span=None) for k in range(1, 6)]
    assert [seen.reason for seen in looks] == ["", "", "", "", "planned"]
    assert looks[0].interval is None


def test_equal_losses_are_equivalent_and_few_equal_answers_are_futile() -> None:
    losses = np.repeat(np.random.default_rng(0).normal(3, 1, size=(1, 30)), 3, axis=0)  # no seed moves them
    assert look(losses, losses, planned_seeds=10, margin=0.03, span=None).reason == "equivalent"
    right = np.ones((3, 30))
    seen = look(right, right, planned_seeds=10, margin=0.01)
    assert (seen.label, seen.reason) == ("inconclusive", "futile")
    assert look(np.ones((3, 2000)), np.ones((3, 2000)), planned_seeds=10, margin=0.01).reason == "equivalent"


@pytest.mark.parametrize(
    ("diverged", "finished", "is_kept", "label"),
    [
        (["baseline"], (3, 3), False, "better"),
        (["baseline"], (2, 3), False, "inconclusive"),
        (["baseline"], (2, 2), False, "inconclusive"),
        (["incumbent"], (0, 3), True, "default kept"),
        (["incumbent"], (0, 3), False, "inconclusive"),  # the baseline breaks a limit
        (["incumbent", "baseline"], (0, 3), False, "inconclusive"),
    ],
)
def test_a_plan_that_never_finished_is_not_better(
    diverged: list[str], finished: tuple[int, int], is_kept: bool, label: str
) -> None:
    verdict = verdict_on_diverged(
        diverged,
        n_seeds=finished[1],
        n_finished=finished[0],
        is_kept=is_kept,
        margin=0.01,
        fidelity="half",
        smallest_equivalent="unproven",
    )
    assert (verdict.label, verdict.mean_difference) == (label, None)
    assert "is better" not in verdict.sentence or label == "better"


@pytest.mark.parametrize("n_seeds", [2, 3, 4, 5])
def test_alike_plans_that_diverge_by_chance_are_called_better_in_2_percent(n_seeds: int) -> None:
    """All outcomes of two plans, each run of which diverges with one chance, of a fine grid."""
    outcomes = list(itertools.product((False, True), repeat=2 * n_seeds))
    called = []
    for outcome in outcomes:
        best, baseline = outcome[:n_seeds], outcome[n_seeds:]
        if not any(best) or any(baseline):
            continue
        words = {"is_kept": False, "margin": 0.01, "fidelity": "full", "smallest_equivalent": "unproven"}
        verdict = verdict_on_diverged(["baseline"], n_seeds=n_seeds, n_finished=sum(best), **words)
        if verdict.label == "better":
            called.append(sum(outcome))
    most = max(
        sum((1 - q) ** n * q ** (2 * n_seeds - n) for n in called) for q in np.linspace(0.01, 0.99, 99)
    )
    assert most <= 0.025 and bool(called) == (n_seeds > 2)


def test_one_diverged_seed_in_four_decides_nothing_and_is_mentioned() -> None:
    rng = np.random.default_rng(0)
    baseline = (rng.random((4, 500)) < 0.85).astype(float)
    best = (rng.random((4, 500)) < 0.95).astype(float)
    assert look(best, baseline, planned_seeds=4, margin=0.01).label == "better"
    best[2] = 0.0
    seen = look(best, baseline, planned_seeds=4, margin=0.01)
    assert seen.interval is not None
    assert seen.label == "inconclusive"
    # One of four falls by 0.95: mean near 0.10 - 0.95 / 4, and t(6) times 0.95 / 4 = 0.58 on each side.
    assert seen.interval.low < -0.7 and seen.interval.high > 0.4
    verdict = sequential_verdict(
        seen, metric=ACCURACY, fidelity="full", smallest_equivalent="unproven", n_diverged=1
    )
    assert verdict.sentence.endswith("1 seed of the best plan diverged, counted with the worst score.")


# Verdicts in words, and refusals.


def test_verdict_of_an_early_stop_names_its_seeds() -> None:
    seen = look(*pair_of([0.5, 0.51, 0.49]), planned_seeds=5, margin=0.01, span=None)
    verdict = sequential_verdict(seen, metric=LOSS, fidelity="half", smallest_equivalent="proven")
    assert verdict.sentence.startswith(
        "The best plan is better than the baseline: its loss is lower by 0.500 (95 % interval "
    )
    assert verdict.sentence.endswith("confirmed at half length on 3 of at most 5 seeds.")
    assert (verdict.n_seeds, verdict.planned_seeds, verdict.stopped_by) == (3, 5, "better")
    assert verdict.mean_difference == pytest.approx(0.5) and verdict.plain_difference == pytest.approx(0.5)


def test_where_seeds_alone_vary_a_futile_interval_is_narrowed_by_seeds_and_not_by_examples() -> None:
    seeds = np.array([[0.3], [-0.3], [0.05], [-0.05]])
    seen, of_more_examples = (
        look(seeds * np.ones(n), 0 * seeds * np.ones(n), planned_seeds=5, margin=0.01, span=None)
        for n in (500, 5000)
    )
    of_more_seeds = paired_interval(np.tile(seeds, (5, 500)), np.zeros((20, 500)), span=None)
    assert seen.reason == "futile" and seen.interval and of_more_examples.interval
    width = seen.interval.high - seen.interval.low
    assert of_more_examples.interval.high - of_more_examples.interval.low == pytest.approx(width, rel=1e-3)
    assert of_more_seeds.high - of_more_seeds.low < width / 2


def test_more_seeds_than_the_bounds_were_made_for_are_refused() -> None:
    for planned in (1, 11):
        with pytest.raises(SpecError, match=f"A confirmation of {planned} seeds was requested and 2 to 10"):
            look([[1.0, 0.0]], [[1.0, 0.0]], planned_seeds=planned, margin=0.01)


def test_no_interval_holds_differences_that_bounded_scores_cannot_have() -> None:
    one_seed_failed = [[0.0] * 40, [1.0] * 40]
    seen = look([[1.0] * 40] * 2, one_seed_failed, planned_seeds=2, margin=0.01)
    wide = look([[1.0] * 40] * 2, one_seed_failed, planned_seeds=2, margin=0.01, span=None)
    assert (seen.interval.low, seen.interval.high) == (-1.0, 1.0)
    assert -1.0 < seen.interval_90[0] < 0.0 and seen.interval_90[1] == 1.0 < wide.interval_90[1]
    assert wide.interval.low < -1.0 and wide.interval.high > 1.0
    assert seen.label == wide.label == "inconclusive"
