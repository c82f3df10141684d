"""What a search cost, in seconds and in R, the seconds of one full run of the baseline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from toys.engine import NO_LORA, SPACE, Quality, Run, World, levels, method_of, problem, run
from toys.results import WORDS, toy_result

from autopeft import report
from autopeft.cli.tables import print_result
from autopeft.engine import search_cost
from autopeft.records import Cost, Fidelity, Plan

optuna.logging.set_verbosity(optuna.logging.ERROR)


def untrained(quality: Quality) -> Run:
    """A search with IA3 alone on a model without a head, whose budget fits no LoRA."""
    space = SPACE.model_copy(update={"methods": {"ia3": SPACE.methods["ia3"]}})
    world = World(quality=quality, has_head=False)
    return run(world, max_params=NO_LORA, space=space, head_rates=(1.0, 1.0))


def ia3_fails(plan: Plan, fidelity: Fidelity) -> float | None:
    return None if method_of(plan) == "ia3" else levels()(plan, fidelity)


def cost_of(search: Run) -> Cost:
    outcome = search.outcome
    return search_cost(
        outcome.measurements,
        outcome.proposals,
        outcome.baseline,
        schedule=problem().schedule,
        scoring_seconds=6.0,
        load_seconds=2.0,
    )


def written(search: Run, folder: Path) -> dict[str, object]:
    """The cost in result.json, with a report beside it."""
    result = replace(toy_result(), **vars(search.outcome), cost=cost_of(search))
    report.write(result, folder, words=WORDS)
    print_result(result, folder)
    assert (folder / "report.html").stat().st_size and (folder / "report.md").stat().st_size
    content: dict[str, object] = json.loads((folder / "result.json").read_text(encoding="utf-8"))["cost"]
    return content


def test_where_the_baseline_is_untrained_r_is_a_full_run_of_the_trained_plans(tmp_path: Path) -> None:
    search = untrained(levels())
    assert search.outcome.baseline.adapters == () and method_of(search.outcome.best) == "ia3"
    cost = written(search, tmp_path)
    seconds = sum(m.train_seconds for m in search.at("search"))
    assert cost["full_run_seconds"] == 30  # a second a step
    assert cost["full_runs"] == pytest.approx((6 + seconds) / 30)


def test_where_nothing_was_trained_there_is_no_r_and_the_report_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = untrained(ia3_fails)
    assert search.outcome.best.adapters == ()
    cost = written(search, tmp_path)
    assert (cost["full_run_seconds"], cost["full_runs"]) == (None, None)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "no plan was trained" in text and "one full run (R)" not in text
    assert " R" not in next(line for line in capsys.readouterr().out.splitlines() if "confirmation" in line)
