"""What `--resume` lets a user change: trials, time and cost, which can only grow, and nothing else."""

from __future__ import annotations

import pytest

from autopeft.errors import SpecError
from autopeft.pipeline.resuming import resumed
from autopeft.records import LimitSpec, OutputSpec, RunSpec, SearchSpec
from autopeft.store import RunDir

STORED = RunSpec(search=SearchSpec(trials=10, max_cost=3.0), limits=LimitSpec(max_rank=8))


@pytest.fixture
def out(tmp_path):
    with RunDir.create(tmp_path / "run", resume=False) as run:
        run.write_spec(STORED)
    return OutputSpec(out=str(tmp_path / "run"))


@pytest.mark.parametrize("cost", [3.0, 5.0, None])
def test_the_cost_may_grow(out, cost):
    asked = RunSpec(search=SearchSpec(max_cost=cost), output=out)
    spec = resumed(asked, frozenset({"search.max_cost"}))
    assert (spec.search.max_cost, spec.search.trials, spec.limits.max_rank) == (cost, 10, 8)


def test_the_cost_cannot_shrink(out):
    asked = RunSpec(search=SearchSpec(max_cost=2.0), output=out)
    with pytest.raises(SpecError, match=r"a cost of 2 R, but the run has 3 R: the cost can only grow"):
        resumed(asked, frozenset({"search.max_cost"}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("search.sampler", "random"),
        ("search.strategy", "topk"),
        ("search.objective", "pareto"),
        ("search.warm_start", "plan.yaml"),
        ("search.baseline", "mine"),
        ("limits.max_rank", 16),
        ("limits.mergeable", True),
        ("limits.max_step_time", 1.5),
        ("limits.max_peak_bytes", 10**9),
        ("limits.max_adapter_bytes", 10**6),
    ],
)
def test_what_is_searched_and_its_limits_cannot_change(out, name, value):
    topic, field = name.split(".")
    asked = RunSpec.model_validate({topic: {field: value}, "output": out})
    with pytest.raises(SpecError, match=f"{name} was .* and cannot become .*only trials, time and cost"):
        resumed(asked, frozenset({name}))
