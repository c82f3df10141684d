"""The main job in small on the real parts: the published MiniLM-L6 and the sample dataset in the package."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from autopeft.cli.app import app
from autopeft.plugins import discover
from autopeft.store import read_plan


def test_demo_finds_a_plan_that_spends_the_budget(tmp_path):
    out = tmp_path / "run"
    short = "--max-steps 6 --effort quick --max-eval-examples 40".split()
    done = CliRunner().invoke(app, ["search", "--budget", "0.5%", *short, "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads((out / "result.json").read_text(encoding="utf-8"))
    # MiniLM-L6-v2 has 22,713,216 parameters by its model card's config; 0.5 % of them is 113,566.08.
    assert answer["budget"] == {
        "requested": "0.5%",
        "max_trainable_params": 113_566,
        "base_params": 22_713_216,
    }
    baseline = answer["baseline"]
    (rank,) = {adapter["rank"] for adapter in baseline["plan"]["adapters"]}
    assert 0 <= 113_566 - baseline["trainable_params"] < baseline["trainable_params"] / rank  # one rank more
    plan = read_plan(out).plan
    methods = discover("autopeft.methods")
    assert {adapter.method for adapter in plan.adapters} <= set(methods)
    counted = CliRunner().invoke(app, ["count", str(out / "best" / "plan.yaml"), "--json"])
    assert json.loads(counted.stdout)["trainable_params"] == answer["best"]["trainable_params"]
