"""The page of the first steps shows what a search prints today, word for word."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from toys.results import toy_plan, toy_result, toy_run, toy_target

from autopeft import types as rec
from autopeft.cli.results import result_text

PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"
ROLES = ("q", "k", "v", "o", "up", "down")
TARGETS = tuple(toy_target(f"h.{n}.{role}", n, role) for n in range(6) for role in ROLES)
LORA_RANKS = {
    target.name: 1 + (target.layer == 5)
    for target in TARGETS
    if target.role in ("q", "v") and target.layer > 1
}
DEFAULT = toy_plan(LORA_RANKS, 2.4e-3, 6_912)
POOLER = toy_target("bert.pooler.dense", None, "dense")
ROAD = toy_plan(
    {target.name: 0 for target in (*TARGETS, POOLER) if target.layer is None or target.layer > 3},
    2.4e-2,
    7_296,
    method="road",
)
OPTIONS = (("group_size", 64), ("variant", "road_1"))
ROAD = replace(ROAD, adapters=tuple(replace(adapter, options=OPTIONS) for adapter in ROAD.adapters))
NINETEEN = [target.name for target in TARGETS if target.layer > 2] + ["h.2.up"]
FINALIST = toy_plan(dict.fromkeys(NINETEEN, 0), 6.2e-2, 7_296, method="road")
# From result.json of a run of the demo (seed 0): metric and its standard error; seconds of 2 idle cores.
CONFIRM = {"best": (ROAD, 0.941667, 0.007632), "baseline": (DEFAULT, 0.89375, 0.009995)}
CONFIRM["road/all"] = (FINALIST, 0.939583, 0.007756)
TEST = {"best": (ROAD, 0.919792, 0.008824), "baseline": (DEFAULT, 0.888542, 0.010205)}
SECONDS = {"best": 6.6, "baseline": 6.5, "road/all": 8.1, "refit": 8.6}
SENTENCE = (
    "RoAd on all linear layers of the last layers scores 4.8 points more than LoRA on q and v of the last "
    "layers on 960 confirm rows; expect +1.4 to +8.2 on new rows and if trained again (95 % interval)."
)


def records(split, measured):
    return tuple(
        rec.FullRun(
            name=name, plan=plan, split=split, metric_mean=mean, metric_std_error=error, seeds=(0,),
            metrics=(mean,), mean_loss=0.3, train_seconds=SECONDS[name],
        )
        for name, (plan, mean, error) in measured.items()
    )  # fmt: skip


(REFIT,) = records("test", {"refit": (ROAD, 0.936458, 0.007938)})


def demo():
    """The run of the demo, as far as the first lines and the table tell of it."""
    usual = toy_result()
    verdict = {"label": "better", "mean_difference": 0.047917, "interval_95": (0.014277, 0.081556)}
    budget = rec.Budget(max_trainable_params=7_500, base_params=22_713_216, requested="7500")
    trained = tuple(
        replace(toy_run(plan, "confirm", 150, 0, 0.24, 0.9), peak_bytes=n_bytes)
        for plan, n_bytes in ((ROAD, 92_000_000), (DEFAULT, 67_000_000))
    )
    return replace(
        usual,
        setting=replace(usual.setting, budget=budget, head_params=3_850),
        measurements=tuple(trained),
        targets=(*TARGETS, POOLER),
        **{"best": ROAD, "baseline": DEFAULT, "challenger": ROAD},
        full_runs=records("confirm", CONFIRM),
        test=records("test", TEST),
        verdict=replace(usual.verdict, sentence=SENTENCE, **verdict),
        refit=rec.Refit(train_rows=4_998, train_steps=188, seconds=8.6, measurement=trained[0], test=REFIT),
    )


def test_the_page_shows_what_a_run_prints():
    (block,) = re.findall(r"^```\n(plan .*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    shown = block.split()
    assert shown == result_text(demo(), Path("reports/RUN")).split()[: len(shown)]
    assert max(map(len, block.splitlines())) <= 80
