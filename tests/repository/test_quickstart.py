"""The page of the first steps shows what a search prints today, word for word."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from toys.results import toy_full_run, toy_plan, toy_result, toy_site

from autopeft import records as rec
from autopeft.cli.tables import print_result
from autopeft.evidence import Difference, verdict

PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"
SITES = tuple(toy_site(f"h.{n}.{role}", n, role) for n in range(6) for role in ("q", "k", "v"))
LORA = toy_plan({site.name: 12 for site in SITES if site.role in ("q", "v")}, 2.4e-3, 110_592)
HIRA = toy_plan({site.name: 2 for site in SITES}, 3.1e-2, 84_480, method="hira")
ACCURACY = rec.MetricFacts(name="accuracy", greater_is_better=True, is_share=True)
# Of result.json of a run of the demo (seed 0).
FULL_RUNS = (("best", LORA, "confirm", 0.9060, 0.01721), ("rival", HIRA, "confirm", 0.9027, 0.01747))
TEST = (("best", LORA, "test", 0.9109, 0.0118),)
BEHIND = Difference(
    mean=-0.003356, std_error=0.01404, low=-0.030984, high=0.024273, n_examples=298, n_seeds=1
)


def runs(rows):
    return tuple(toy_full_run(*names, mean, std_error=error) for *names, mean, error in rows)


def demo():
    """The run of the demo, without what the first paragraphs and the table do not tell."""
    names = ("HiRA on all linear maps", "LoRA on q and v")
    sizes = (HIRA.trainable_params, LORA.trainable_params)
    kept = verdict(BEHIND, names=names, params=sizes, margin=0.01, metric=ACCURACY)
    return replace(
        toy_result(),
        sites=SITES,
        best=LORA,
        baseline=LORA,
        rival=HIRA,
        verdict=kept,
        full_runs=runs(FULL_RUNS),
        test=runs(TEST),
        longer=rec.LongerRun(steps=220, metric=0.906, gain=0.0),
    )


def test_the_page_shows_what_a_run_prints(capsys):
    (block,) = re.findall(r"^```\n(Keep .*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    shown = block.split()
    print_result(demo(), Path("reports/RUN"))
    assert shown == capsys.readouterr().out.split()[: len(shown)]
    assert max(map(len, block.splitlines())) <= 80
