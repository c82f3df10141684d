"""What stands for the measurement of any plan: closed forms between the measured ones."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from surrogate import Point, TableBench, distance, fresh_seed
from toys.benchmark import (
    CELL,
    EXAMPLE_SECONDS,
    EXAMPLES,
    STEP_SECONDS,
    right,
    toy_candidates,
    toy_surrogate,
)
from toys.engine import TARGETS, context

from autopeft.space import Policy, plan_of
from autopeft.types import Adapter, Fidelity, Plan, Status

LOSSES = {0.15: 0.9, 0.38: 0.5, 0.62: 0.3, 0.85: 0.8}
SHARES = {0.15: 0.2, 0.38: 0.4, 0.62: 0.9, 0.85: 0.3}


def by_position(candidate, split, steps, seed):
    """The loss is that of the position, and a hundredth for each octave of steps below a full run."""
    return LOSSES[candidate.position] + 0.01 * math.log2(CELL.full / steps), SHARES[candidate.position]


def fidelity(split="search", steps=20, *, seed=0, n=None):
    return Fidelity(
        split=split,
        train_steps=steps,
        train_examples=4 * steps,
        eval_examples=EXAMPLES[split] if n is None else n,
        seed=seed,
    )


@pytest.fixture
def surrogate(tmp_path):
    return toy_surrogate(tmp_path / "toy", by_position, toy_candidates(["lora/all"]))


def at(surrogate, rate, **where):
    plan = replace(surrogate.plans["lora/all", 0.38], learning_rate=rate)
    return TableBench(surrogate, seed=0).measure(plan, fidelity(**where))


def rate_of(surrogate, position):
    return surrogate.plans["lora/all", position].learning_rate


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_loss_is_linear_in_the_logarithm_of_the_rate(surrogate, weight):
    low, high = rate_of(surrogate, 0.38), rate_of(surrogate, 0.62)
    seen = at(surrogate, low ** (1 - weight) * high**weight)
    assert seen.loss == pytest.approx((1 - weight) * 0.5 + weight * 0.3 + 0.02)


def test_metric_moves_with_the_loss_on_the_same_examples(surrogate):
    low, high = rate_of(surrogate, 0.38), rate_of(surrogate, 0.62)
    metrics = [at(surrogate, low * (high / low) ** w).metric for w in np.linspace(0, 1, 21)]
    assert metrics == sorted(metrics)
    assert metrics[0] == pytest.approx(0.4)
    assert metrics[-1] == pytest.approx(0.9)
    assert metrics[10] == pytest.approx(0.65, abs=0.1), "50 examples, each by the toss of a coin"


@pytest.mark.parametrize(("end", "neighbour", "factor"), [(0.15, 0.38, 1 / 3), (0.85, 0.62, 3)])
def test_loss_beyond_the_rates_grows_by_the_last_slope(surrogate, end, neighbour, factor):
    last, before = rate_of(surrogate, end), rate_of(surrogate, neighbour)
    slope = (LOSSES[end] - LOSSES[neighbour]) / math.log(last / before)
    expected = LOSSES[end] + slope * math.log(factor) + 0.02
    assert at(surrogate, last * factor).loss == pytest.approx(expected)
    assert expected > LOSSES[end]


def test_beyond_the_middle_to_a_rate_that_diverged_a_run_diverges(tmp_path):
    def cliff(candidate, split, steps, seed):
        return None if candidate.position > 0.5 else (0.4, 0.8)

    surrogate = toy_surrogate(tmp_path / "toy", cliff, toy_candidates(["lora/all"]))
    middle = math.sqrt(rate_of(surrogate, 0.38) * rate_of(surrogate, 0.62))
    below, above = at(surrogate, 0.99 * middle), at(surrogate, 1.01 * middle)
    assert (below.status, below.loss) == (Status.COMPLETE, pytest.approx(0.4))
    assert (above.status, above.loss, above.example_scores) == (Status.DIVERGED, None, ())
    assert above.error


@pytest.mark.parametrize("steps", [10, 33, 80])
def test_loss_is_linear_in_the_logarithm_of_the_length(surrogate, steps):
    seen = at(surrogate, rate_of(surrogate, 0.62), steps=steps)
    assert seen.loss == pytest.approx(0.3 + 0.01 * math.log2(80 / steps))


def test_a_plan_that_diverged_at_a_rung_diverges_at_all_later_ones(tmp_path):
    def late(candidate, split, steps, seed):
        return None if steps >= 20 else (0.4, 0.8)

    surrogate = toy_surrogate(tmp_path / "toy", late, toy_candidates(["lora/all"]))
    losses = [at(surrogate, rate_of(surrogate, 0.38), steps=steps).loss for steps in (10, 20, 40, 80)]
    assert losses == [pytest.approx(0.4), None, None, None]


def test_fewer_examples_are_the_same_part_for_every_plan(surrogate):
    seen = [at(surrogate, rate_of(surrogate, position), n=30) for position in (0.38, 0.62)]
    few, more = (m.example_scores for m in seen)
    assert len(few) == len(more) == 30
    assert all(a <= b for a, b in zip(few, more, strict=True)), "whoever is right at 0.38 is so at 0.62"
    assert seen[0].metric == pytest.approx(sum(few) / 30)


def test_a_run_costs_its_own_steps_and_examples(surrogate):
    bench, plan = TableBench(surrogate, seed=0), surrogate.plans["lora/all", 0.38]
    wanted = [fidelity(steps=10, n=50), fidelity(steps=40), fidelity("confirm", 80), fidelity("test", 80)]
    seen = [bench.measure(plan, each) for each in wanted]
    assert [m.trained_steps for m in seen] == [10, 30, 80, 0]
    assert [m.train_seconds for m in seen] == pytest.approx([STEP_SECONDS * n for n in (10, 30, 80, 0)])
    assert [m.eval_seconds for m in seen] == pytest.approx([EXAMPLE_SECONDS * n for n in (50, 100, 100, 200)])
    assert bench.seconds == pytest.approx(120 * STEP_SECONDS + 450 * EXAMPLE_SECONDS)
    # To evaluate an example costs half of training on it; a batch has 4.
    of_examples = 450 / 2 / 4
    assert bench.cost() == pytest.approx((120 + of_examples) / (80 + 100 / 2 / 4))
    assert bench.cost(full_steps=100) == pytest.approx((140 + of_examples) / (100 + 100 / 2 / 4))


def test_a_full_run_goes_on_from_where_its_short_run_decays(surrogate):
    bench, plan = TableBench(surrogate, seed=0), surrogate.plans["lora/all", 0.38]
    lengths = bench.lengths
    short, full, other = (
        bench.measure(plan, each)
        for each in (lengths.short(seed=0), lengths.full(seed=0), lengths.full(seed=1))
    )
    assert (short.trained_steps, full.trained_steps, other.trained_steps) == (32, 80 - 26, 80)
    assert full.loss == pytest.approx(0.5), "the row of the whole run"


# Fresh seeds


def by_seed(candidate, split, steps, seed):
    return 1 + seed / 1000, 0.25 if seed == 101 else 0.75


@pytest.mark.parametrize(("search_seed", "first"), [(0, 101), (1, 102), (2, 101)])
def test_the_first_two_fresh_seeds_are_the_measured_ones(tmp_path, search_seed, first):
    surrogate = toy_surrogate(tmp_path / "toy", by_seed, toy_candidates(["lora/all"]))
    bench, plan = TableBench(surrogate, seed=search_seed), surrogate.plans["lora/all", 0.38]
    seeds = (search_seed, search_seed + 1)
    seen = [bench.measure(plan, fidelity("confirm", 80, seed=seed)) for seed in seeds]
    assert [m.loss for m in seen] == pytest.approx([1 + s / 1000 for s in (first, 203 - first)])
    assert seen[0].example_scores == right(0.25 if first == 101 else 0.75, EXAMPLES["confirm"])


def test_a_further_seed_takes_each_score_from_one_of_the_two():
    n = 4000
    zeros, ones = Point(1.0, np.zeros(n)), Point(3.0, np.ones(n))
    third, again, fourth = (fresh_seed([zeros, ones], seed=s, first_seed=1) for s in (3, 3, 4))
    assert third.loss == 2.0
    assert third.scores.mean() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(n))
    assert (third.scores == again.scores).all()
    assert 0.4 < (third.scores == fourth.scores).mean() < 0.6, "each seed draws anew"
    swapped = fresh_seed([ones, zeros], seed=3, first_seed=1)
    assert (swapped.scores == 1 - third.scores).all(), "every plan takes an example from the same seed"


def test_a_further_seed_diverges_about_as_often_as_the_measured_ones():
    bad, good = Point(None, np.empty(0)), Point(1.0, np.ones(5))
    losses = [fresh_seed([bad, good], seed=seed, first_seed=1).loss for seed in range(3, 403)]
    assert 0.4 < losses.count(None) / len(losses) < 0.6


def test_metric_of_a_plan_is_the_mean_over_seeds_and_the_worst_where_one_diverged(tmp_path):
    def truth(candidate, split, steps, seed):
        if candidate.position == 0.62 and seed == 102:
            return None
        return 1.0, {0.15: 0.1, 0.38: 0.4, 0.62: 0.8, 0.85: 0.5}[candidate.position]

    surrogate = toy_surrogate(tmp_path / "toy", truth, toy_candidates(["lora/all"]))
    metrics = [surrogate.metric(surrogate.plans["lora/all", p], "test") for p in (0.38, 0.62)]
    assert metrics == pytest.approx([0.4, (0.8 + 0.1) / 2])


# Nearest arms


def lora(placement, rank=2, **changes):
    targets = [s for s in TARGETS if placement == "all" or s.role in placement]
    adapters = tuple(Adapter(method="lora", target=s.name, rank=rank, **changes) for s in targets)
    cost = sum(rank * (s.in_features + s.out_features) for s in targets)
    return Plan(adapters=adapters, learning_rate=1e-2, trainable_params=cost)


def test_distance_of_plans_is_that_of_their_targets_ranks_options_and_parameters():
    assert distance(lora("all"), lora("all")) == 0
    assert distance(lora(["q"]), lora(["v"])) == 1
    in_common = 4 / 6  # q and v of both layers, of six target modules: Jaccard's overlap
    params = 0.1 * math.log((2 * 16 + 2 * 16 + 2 * 24) / (4 * 16))
    assert distance(lora("all"), lora(["q", "v"])) == pytest.approx(1 - in_common + params)
    assert distance(lora("all", rank=8), lora("all")) == pytest.approx(0.1 * 2 + 0.1 * math.log(4))
    assert distance(lora("all", options=(("dora", True),)), lora("all")) == pytest.approx(0.1)
    assert distance(lora("all", scale=3.0), lora("all")) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("policy", "arm"),
    [
        (Policy(method="lora", placement="q+v", learning_rate=1e-2), "lora/q+v"),
        (Policy(method="lora", layer_share=0.75, learning_rate=1e-2), "lora/all"),
        (Policy(method="lora", placement="q", learning_rate=1e-2, max_rank=8), "lora/q+v"),
        (Policy(method="ia3", layer_share=0.5, learning_rate=1e-2), "ia3/all"),
    ],
)
def test_other_plans_are_the_nearest_arm_of_their_method(tmp_path, policy, arm):
    def truth(candidate, split, steps, seed):
        return 1.0, 0.5

    arms = ["lora/all", "lora/q+v", "ia3/all"]
    surrogate = toy_surrogate(tmp_path / "toy", truth, toy_candidates(arms))
    assert surrogate.arm_of(plan_of(policy, context(300))).name == arm


def test_a_plan_that_lacks_a_run_is_left_out(tmp_path, surrogate):
    text = (tmp_path / "toy" / "trials.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in text if not line.startswith("lora/all,0.62") or ",search,40," not in line]
    (tmp_path / "toy" / "trials.csv").write_text("".join(kept), encoding="utf-8")
    left = type(surrogate)(type(surrogate.results).read(tmp_path / "toy"), surrogate.description)
    assert [position for _, position in left.plans] == [0.15, 0.38, 0.85]
    assert left.n_planned == 4
