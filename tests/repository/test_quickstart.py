"""The page of the first steps shows what a search prints today, word for word."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from toys.results import HEAD, toy_plan, toy_result, toy_run, toy_site

from autopeft import records as rec
from autopeft.cli.tables import print_result

PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"
RANKS = {f"h.{n}.{role}": 12 + (n == 5) for n in range(6) for role in ("q", "v")}
DEFAULT = toy_plan(RANKS, 3.7e-3, 112_896)
ROAD = toy_plan(dict.fromkeys((f"h.{n}.q" for n in range(6)), 0), 0.029, 21_120, method="road")
# Of each plan: accuracy on confirm and on test with standard errors, memory and seconds of its run, from
# result.json and trials.csv of a run of the demo (2 CPU cores, seed 0).
MEASURED = {
    "best": (DEFAULT, (0.8893, 0.0185), (0.9176, 0.0149), 242_691_228, 9.617),
    "smallest": (ROAD, (0.8893, 0.0185), (0.8892, 0.0169), 564_422_172, 15.34),
    "head": (HEAD, (0.7919, 0.0237), None, 34_332, 3.357),
}


def score(split, name, plan, measured, seconds):
    mean, error = measured
    spread = {"metric_std_error": error, "mean_loss": 0.3, "train_seconds": seconds}
    return rec.Confirmation(
        name=name, plan=plan, split=split, metric_mean=mean, metrics=(mean,), seeds=(1,), **spread
    )


def run(plan, split, steps, n_examples, n_bytes=0, seconds=1.0):
    measurement = toy_run(plan, split, steps, 1, 0.3, 0.9)
    fidelity = replace(measurement.fidelity, eval_examples=n_examples)
    return replace(measurement, fidelity=fidelity, peak_bytes=n_bytes, train_seconds=seconds)


def demo():
    """The run of the demo, without what the first paragraphs and the table do not tell."""
    usual = toy_result()
    arms = {DEFAULT: ("baseline", "LoRA on q and v"), ROAD: ("usual", "road/all"), HEAD: ("head", "head")}
    splits = rec.SplitSizes(train=1_773, search=313, confirm=298, test=595, duplicates_removed=0)
    setting = replace(usual.setting, full_run_steps=110, head_params=770, splits=splits)
    budget = replace(usual.setting.budget, base_params=22_713_216)
    cost = {"sensitivity_seconds": 1.2, "search_seconds": 117.3, "confirm_seconds": 30.5}
    cost |= {"total_seconds": 150.6, "load_seconds": 6.8}
    verdict = {"label": "default kept", "mean_difference": 0.0, "interval_95": None}
    # The default was trained in full at two learning rates.
    full = [run(replace(DEFAULT, learning_rate=r), "search", 110, 313) for r in (3.7e-3, 6.6e-3)]
    confirming = [run(each[0], "confirm", 55, 298, *each[3:]) for each in MEASURED.values()]
    confirmed, tested = (
        tuple(score(split, name, each[0], each[i], each[4]) for name, each in MEASURED.items() if each[i])
        for i, split in ((1, "confirm"), (2, "test"))
    )
    return replace(
        usual,
        sites=tuple(toy_site(f"h.{n}.{role}", n, role) for n in range(6) for role in ("q", "k", "v")),
        proposals=tuple(
            rec.Proposal(trial=n, arm=rec.Arm(kind=kind, label=label), source="enqueued", plan=plan)
            for n, (plan, (kind, label)) in enumerate(arms.items())
        ),
        measurements=(*full, *confirming, run(ROAD, "search", 75, 313), run(DEFAULT, "test", 55, 352)),
        setting=replace(setting, budget=budget),
        cost=replace(usual.cost, **cost),
        verdict=replace(usual.verdict, **verdict, fidelity="half", smallest_equivalent="unproven"),
        proxy=replace(usual.proxy, rung_steps=(18, 44, 75)),
        environment={"device": "cpu", "workers": "1"},
        **{"baseline": DEFAULT, "best": DEFAULT, "smallest": ROAD},
        confirmations=confirmed,
        test=tested,
    )


def test_the_page_shows_what_a_run_prints(capsys):
    (block,) = re.findall(r"^```\n(Keep .*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    shown = block.split()
    print_result(demo(), Path("reports/RUN"))
    assert shown == capsys.readouterr().out.split()[: len(shown)]
    assert max(map(len, block.splitlines())) <= 80
