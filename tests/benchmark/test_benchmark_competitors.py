"""Challengers written with Optuna."""

from __future__ import annotations

import competitors
import pytest
import replay
from toys.benchmark import CELL, EXAMPLES, toy_candidates, write_table


def lora_leads(candidate, split, steps, seed):
    """LoRA on q and v leads with 0.9 in full runs and is last in short ones; rates hardly matter."""
    share = {"lora/q+v": 0.9, "lora/all": 0.7, "head": 0.3}.get(candidate.arm, 0.6)
    share -= 0.01 * abs(candidate.position - 0.38)
    return 2 - share + 1 / steps, share


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("tables") / "toy", lora_leads, toy_candidates())


@pytest.mark.parametrize(("policy", "cost"), [(competitors.hyperband, 2), (competitors.halving, 6)])
def test_challengers_spend_no_more_than_they_may_and_most_of_it(table, policy, cost):
    row = replay.replayed(table, "challenger", policy(cost), 0)
    assert not row["error"]
    weights = (CELL.full + sum(EXAMPLES[s] for s in ("confirm", "test")) / 2 / CELL.batch_size) / CELL.full
    assert cost / 2 < row["cost"] <= cost + weights


@pytest.mark.parametrize(
    "policy", [pytest.param(competitors.hyperband, marks=pytest.mark.nightly), competitors.halving]
)
def test_challengers_mostly_find_the_leading_arm_where_much_may_be_spent(table, policy):
    arms = [replay.replayed(table, "challenger", policy(120), seed)["arm"] for seed in range(7)]
    assert arms.count("lora/q+v") > len(arms) / 2


def test_halving_hands_over_a_run_of_full_length(table):
    surrogate = replay.surrogate_of(table)
    found = competitors.halving(6)(surrogate, 1)
    full = surrogate.description.cell.full
    longest = {m.plan for m in found.bench.measured if m.fidelity.train_steps == full}
    assert found.plan in longest
    assert len({m.plan for m in found.bench.measured}) > len(longest)
