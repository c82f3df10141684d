"""The page of the first steps shows what a search prints today, word for word."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from toys.results import toy_plan, toy_result, toy_run, toy_site

from autopeft import records as rec
from autopeft.cli.results import print_result

PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"
ROLES = ("q", "k", "v", "o", "up", "down")
SITES = tuple(toy_site(f"h.{n}.{role}", n, role) for n in range(6) for role in ROLES)
DEFAULT = toy_plan({site.name: 12 for site in SITES if site.role in ("q", "v")}, 2.4e-3, 110_592)
HIRA = toy_plan({site.name: 2 for site in SITES}, 3.1e-2, 84_480, method="hira")
# From result.json of a run of the demo (2 CPU cores, seed 0): metric and its standard error.
CONFIRM = {"best": (DEFAULT, 0.90604, 0.017205), "rival": (HIRA, 0.902685, 0.017467)}
TEST = {"best": (DEFAULT, 0.910924, 0.011789)}
SENTENCE = (
    "LoRA on q and v is kept, since HiRA on all linear maps is not clearly better: it scores 0.3 points less "
    "on 298 unseen rows; expect -3.1 to +2.4 on new rows and with another seed (95 % interval)."
)


def records(split, measured):
    return tuple(
        rec.FullRun(
            name=name, plan=plan, split=split, metric_mean=mean, metric_std_error=error, seeds=(0,),
            metrics=(mean,), mean_loss=0.3, train_seconds=26.0,
        )
        for name, (plan, mean, error) in measured.items()
    )  # fmt: skip


def demo():
    """The run of the demo, as far as the first lines and the table tell of it."""
    usual = toy_result()
    verdict = {"label": "default kept", "mean_difference": -0.00336, "interval_95": (-0.03098, 0.02427)}
    budget = rec.Budget(max_trainable_params=113_566, base_params=22_713_216, requested="0.5%")
    trained = replace(toy_run(DEFAULT, "confirm", 110, 0, 0.24, 0.906), peak_bytes=241_000_000)
    return replace(
        usual,
        setting=replace(usual.setting, budget=budget, head_params=770),
        measurements=(trained,),
        sites=SITES,
        **{"best": DEFAULT, "baseline": DEFAULT, "rival": HIRA},
        full_runs=records("confirm", CONFIRM),
        test=records("test", TEST),
        verdict=replace(usual.verdict, sentence=SENTENCE, **verdict),
        longer=rec.LongerRun(steps=220, metric=0.90604, gain=0.0),
    )


def test_the_page_shows_what_a_run_prints(capsys):
    (block,) = re.findall(r"^```\n(plan .*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    shown = block.split()
    print_result(demo(), Path("reports/RUN"))
    assert shown == capsys.readouterr().out.split()[: len(shown)]
    assert max(map(len, block.splitlines())) <= 80
