"""Replayed policies on tables with a known best plan."""

from __future__ import annotations

import csv
import itertools
import sys
from dataclasses import replace

import measure
import numpy as np
import policies
import pytest
import replay
from cells import POSITIONS, candidates
from description import describe
from toys.benchmark import (
    CELL,
    EXAMPLE_SECONDS,
    EXAMPLES,
    STEP_SECONDS,
    toy_candidates,
    toy_surrogate,
    write_table,
)
from toys.metrics import ERROR_RATE

from autopeft.setup.feasible import fit_to_budget, requested_space
from autopeft.setup.opening import OpenedRun
from autopeft.setup.scoring import logged_scores
from autopeft.setup.search_problem import search_problem
from autopeft.types import RunSpec


def ia3_leads(candidate, split, steps, seed):
    """IA3 is best, at all targets above all, and the head worst; of each arm the rates near the middle."""
    levels = {"ia3/all": 0.9, "lora/all": 0.7, "lora/q+v": 0.8, "head": 0.4}
    level = levels.get(candidate.arm, 0.87 if candidate.arm.startswith("ia3") else 0.6)
    share = level - 0.2 * abs(candidate.position - 0.38)
    return 2 - share + 1 / steps, share


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("tables") / "toy", ia3_leads, toy_candidates())


def regret(table, policy, seed=0):
    row = replay.replayed(table, "policy", policy, seed)
    assert not row["error"]
    return row


@pytest.mark.parametrize("seed", range(2))
def test_the_search_finds_a_plan_that_is_far_better(table, seed):
    row = regret(table, policies.parsed("effort=thorough seeds=1"), seed)
    assert row["arm"].startswith("ia3")
    assert 0 <= row["regret"] < 10, "less than that of the best LoRA"
    assert row["verdict"] in ("better", "as good and smaller")
    full = 1 + sum(EXAMPLES[split] for split in ("confirm", "test")) / 2 / CELL.batch_size / CELL.full
    assert row["cost"] > 2 * (full - 26 / 80), "two full runs at least"


def test_regret_is_zero_where_only_one_plan_exists(tmp_path):
    (only,) = [c for c in toy_candidates(["lora/all"]) if c.position == 0.38]
    folder = write_table(tmp_path / "one", ia3_leads, [only])
    rules = [policies.plain_default, policies.sweep([0.38]), policies.at_random(5)]
    for policy in (policies.parsed("methods=[lora]"), *rules):
        row = regret(folder, policy)
        assert (row["regret"], row["regret_in_hindsight"]) == (0, 0)


def test_sweep_misses_what_the_baselines_miss_and_costs_their_runs(table):
    row = regret(table, policies.sweep(POSITIONS))
    assert (row["arm"], row["regret"]) == ("lora/q+v", pytest.approx(10))
    seconds = [
        CELL.full * STEP_SECONDS + EXAMPLES["confirm"] * EXAMPLE_SECONDS,
        EXAMPLES["test"] * EXAMPLE_SECONDS,
    ]
    assert row["measured_seconds"] == pytest.approx(8 * seconds[0] + seconds[1])
    test = EXAMPLES["test"] / 2 / CELL.batch_size / (CELL.full + EXAMPLES["confirm"] / 2 / CELL.batch_size)
    assert row["cost"] == pytest.approx(8 + test, abs=1e-3)


def test_plain_default_is_between_its_measured_neighbours_and_costs_one_run(table):
    row = regret(table, policies.plain_default)
    at_038, at_062 = 0.7, 0.7 - 0.2 * (0.62 - 0.38)
    assert at_062 <= row["test_metric"] <= at_038
    assert row["n_measured"] == 2, "confirm and test"


def test_random_plans_are_those_of_the_table_and_all_of_them_hold_the_best(table):
    n_plans = len(replay.surrogate_of(table).plans)
    assert regret(table, policies.at_random(n_plans))["regret"] == 0
    few = [regret(table, policies.at_random(3), seed)["regret"] for seed in range(8)]
    assert max(few) > min(few) >= 0


def test_regret_is_that_of_the_weights_and_in_hindsight_of_the_best_on_test(tmp_path):
    def fooled(candidate, split, steps, seed):
        better = candidate.position == (0.38 if split == "confirm" else 0.62)
        return 1.0, 0.9 if better else 0.5 + (seed == 102) / 10

    folder = write_table(tmp_path / "fooled", fooled, toy_candidates(["lora/all"]))
    rows = [regret(folder, policies.sweep(POSITIONS), seed) for seed in (0, 1)]  # trained with 101, with 102
    assert [row["regret"] for row in rows] == pytest.approx([5, -5]), "less the mean of 0.5 and 0.6"
    assert [row["regret_in_hindsight"] for row in rows] == pytest.approx([40, 30])


def test_where_less_is_better_regret_counts_upwards(tmp_path):
    def errors(candidate, split, steps, seed):
        return 1 + candidate.position, 0.2 if candidate.position == 0.62 else 0.5

    plans = toy_candidates(["lora/all"])
    folder = write_table(tmp_path / "errors", errors, plans, metric=ERROR_RATE)
    assert regret(folder, policies.sweep([0.38]))["regret"] == pytest.approx(30)
    assert regret(folder, policies.sweep(POSITIONS))["regret"] == 0


def test_a_policy_that_finds_nothing_is_a_row_with_its_error(tmp_path):
    folder = write_table(tmp_path / "few", ia3_leads, toy_candidates(["lora/all"]))
    row = replay.replayed(folder, "search", policies.parsed("methods=[ia3,bitfit]"), 0)
    assert "search, few: Cell few has arms of lora and none of ia3, bitfit; ask" in replay.summary([row])
    assert (row["regret"], row["arm"]) == ("", "")


def test_methods_that_were_not_measured_are_left_out_of_the_space(tmp_path):
    few = toy_surrogate(tmp_path / "few", ia3_leads, toy_candidates(["lora/all", "ia3/mlp"]))
    more = toy_surrogate(tmp_path / "more", ia3_leads, toy_candidates(["lora/all", "ia3/mlp", "bitfit/all"]))
    spaces = [policies.problem_of(surrogate, RunSpec()).space for surrogate in (few, more)]
    assert [set(space.arms) for space in spaces] == [{"lora", "ia3"}, {"lora", "ia3", "bitfit"}]


# Intervals


def test_a_constant_difference_has_an_interval_without_width():
    first = {"a": {0: 1.0, 1: 5.0}, "b": {0: 2.0, 1: 0.0}}
    second = {cell: {seed: value + 3 for seed, value in by.items()} for cell, by in first.items()}
    assert replay.mean_and_interval(replay.paired(first, second)) == (3.0, 3.0, 3.0)
    low, high = replay.mean_and_interval(first)[1:]
    assert low < 2 < high


def test_differences_are_of_the_same_cell_and_seed():
    first = {"a": {0: 1.0, 1: 5.0}, "b": {0: 2.0}, "c": {0: 1.0}}
    second = {"a": {1: 6.0, 2: 9.0}, "c": {1: 1.0}}
    assert replay.paired(first, second) == {"a": {1: 1.0}}


def test_interval_covers_the_variance_over_cells_and_within_them():
    rng = np.random.default_rng(0)
    effects = rng.normal(0, 1, size=40)
    grid = {str(i): dict(enumerate(rng.normal(e, 1, size=10))) for i, e in enumerate(effects)}
    mean, low, high = replay.mean_and_interval(grid)
    means = [np.mean([*by.values()]) for by in grid.values()]
    assert mean == pytest.approx(np.mean(means))
    # A cell's mean has the variance of cells and a tenth of that of seeds, which the second draw adds again.
    expected = 2 * 1.96 * np.sqrt((np.var(means) + 0.1) / 40)
    assert high - low == pytest.approx(expected, rel=0.1)


# The command line


def test_command_writes_rows_and_a_summary(table, tmp_path, monkeypatch, capsys):
    words = [
        "--tables",
        table.parent,
        "--policies",
        "sweep",
        "--search",
        "short: effort=quick",
        "--seeds",
        "2",
    ]
    monkeypatch.setattr(sys, "argv", ["replay.py", *map(str, words), "--out", str(tmp_path / "out")])
    replay.main()
    with (tmp_path / "out" / "replay.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["policy"], row["seed"]) for row in rows] == [
        (name, seed) for name in ("sweep", "short") for seed in "01"
    ]
    printed = capsys.readouterr().out
    assert "| sweep | 10.00 | 10.00 to 10.00 |" in printed
    assert "toy: 65 of 65 plans are measured." in printed
    assert printed == (tmp_path / "out" / "replay.md").read_text(encoding="utf-8")


# Against the page of results


def cells_after(text, title):
    """The first table after a title: policy -> its cells; the header counts as one."""
    lines = text[text.index(title) :].splitlines()
    table = itertools.takewhile(lambda line: line.startswith("|"), lines)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {name: cells for name, *cells in rows if set(name) != {"-"}}


def test_policies_without_luck_get_what_the_page_of_results_says():
    page = (replay.HERE / "results.md").read_text(encoding="utf-8")
    by_cell = cells_after(page, "| regret by cell")
    folders = [replay.HERE / "tables" / name for name in by_cell["regret by cell"]]
    names = ("quick", "plain default", "sweep of two", "sweep")  # a search draws plans
    rows = [row for folder in folders for row in replay.cell_rows(folder, dict.fromkeys(names), 2)]
    text = replay.summary(rows)
    replayed = cells_after(text, "| regret by cell")
    assert replayed == {name: by_cell[name] for name in ("regret by cell", *names)}
    for name, cells in cells_after(text, "| policy").items():
        in_page = cells_after(page, "| policy")[name]
        kept = (0, 2, 3, 4)  # not the intervals, which narrow with the seeds, and the differences
        assert [cells[i] for i in kept] == [in_page[i] for i in kept], name


# Against the real preparation


def test_the_replayed_problem_is_that_of_a_search_of_the_cell(model_dir, data_dir, tmp_path):
    names = {"model": model_dir.name, "data": data_dir.name}
    cell = replace(CELL, **names, budget="3%", batch_size=8, max_length=32)
    prepared, context = measure.prepare_cell(cell, data_dir.parent, model_dir.parent)
    plans = list(candidates(context, head_rates=prepared.bench.head_rates.alone()))
    described = describe(cell, prepared, context, plans)
    feasible, available = fit_to_budget(prepared.spec, prepared.base, requested_space(prepared.spec))
    scores = logged_scores(prepared, ["gradient", "parameters"])
    opened = OpenedRun(
        prepared=prepared,
        requested=feasible,
        feasible=policies.within_tables(feasible),
        context=available,
        user_plan=None,
    )
    real = search_problem(opened, scores)
    surrogate = toy_surrogate(tmp_path / "toy", ia3_leads, plans, **vars(described))
    assert described.plans() == {(c.arm, c.position): c.plan for c in plans}
    assert policies.problem_of(surrogate, prepared.spec) == replace(
        real, metric=described.metric, head_factors=(1.0,)
    )
