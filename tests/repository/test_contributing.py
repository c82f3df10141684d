"""docs/code.md names every package, and the worked examples of CONTRIBUTING do what they say."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from test_layering import PACKAGES
from toys.bases import PEFT_TASKS, adapters_of

from autopeft import metrics
from autopeft.adapters import compile_plan
from autopeft.plugins import Method
from autopeft.types import Plan

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_tree_of_the_code_names_the_packages() -> None:
    page = (ROOT / "docs" / "code.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"```\nautopeft/\n(.*?)search_spaces/", page, re.DOTALL)
    assert re.findall(r"^[├└]── (\w+)(?:/|\.py)", tree, re.MULTILINE) == PACKAGES[:-1]


def test_functions_that_lead_to_a_training_step_exist() -> None:
    page = (ROOT / "docs" / "code.md").read_text(encoding="utf-8")
    calls = re.findall(r"^(\w+/\w+\.py) +(\w+) ", page, re.MULTILINE)
    assert len(calls) > 5
    sources = {path: (ROOT / "autopeft" / path).read_text(encoding="utf-8") for path, _ in calls}
    assert [(path, name) for path, name in calls if f"def {name}(" not in sources[path]] == []


def test_files_that_contributing_names_exist() -> None:
    names = re.findall(r"`((?:autopeft|tests|tools|docs|search_spaces)/[\w./]+)`", CONTRIBUTING)
    missing = {name for name in names if "NAME" not in name and not (ROOT / name).exists()}
    assert names and missing <= {"autopeft/methods/hra.py"}  # the worked method, which a reader is to write


@pytest.fixture(scope="module")
def worked_method() -> Method:
    """The `PLUGIN` of the worked method, as its code block makes it."""
    (code,) = re.findall(r"## Add a method\n.*?```python\n(.*?)```", CONTRIBUTING, re.DOTALL)
    module = ModuleType("hra")
    exec(compile(code, "CONTRIBUTING.md", "exec"), vars(module))
    return module.PLUGIN


@pytest.mark.parametrize("architecture", ["llama-lm", "t5-lm"])
def test_worked_method_costs_what_peft_attaches_and_starts_as_the_identity(
    worked_method, architecture, make_base, batch_for
):
    base = make_base(architecture)
    batch, sizes = batch_for(base), {target.name: target.in_features for target in base.targets}
    adapters = adapters_of(worked_method, base.targets, rank=4)
    cost = sum(4 * sizes[adapter.target] for adapter in adapters)
    plan = Plan(adapters=tuple(adapters), learning_rate=1e-2, trainable_params=cost)
    configs = compile_plan(plan, {"hra": worked_method}).configs
    with torch.no_grad():
        before = base.module.eval()(**batch).logits
        # `attached` refuses a plan whose count differs from the parameters that require a gradient.
        with base.attached(configs, plan=plan, task_type=PEFT_TASKS[architecture], seed=0) as model:
            torch.testing.assert_close(model.eval()(**batch).logits, before)
    assert isinstance(worked_method, Method) and len(adapters) >= 14


def test_worked_method_refuses_what_its_text_says(worked_method, make_base):
    refusals = {worked_method.refusal(target) for target in make_base("gpt2").targets}
    assert None not in refusals and any("Conv1D" in refusal for refusal in refusals)


def test_worked_metric_is_the_median_error() -> None:
    (entry,) = re.findall(r"## Add a metric\n.*?```python\n(.*?)```", CONTRIBUTING, re.DOTALL)
    metric = eval(entry.rstrip().rstrip(","), vars(metrics))
    score, scores = metric.score(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.5, 2.0, 5.0, 3.0]))
    assert score == pytest.approx(np.median([0.5, 0.0, 2.0, 1.0])) == pytest.approx(np.mean(scores))
