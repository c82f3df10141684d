"""With an older `peft`, what it does not have is left out, and the sentence says which `peft` has it."""

from __future__ import annotations

import peft
import pytest
from toys.specs import run_spec
from typer.testing import CliRunner

from autopeft import space
from autopeft.adapters import compile_plan
from autopeft.cli.app import app
from autopeft.errors import SpecError
from autopeft.model import attach, load_skeleton
from autopeft.plugins import discover
from autopeft.plugins import method as method_module
from autopeft.setup.feasible import fit_to_budget, requested_space

AUTO_CLASS = "AutoModelForSequenceClassification"


@pytest.fixture
def older_peft(monkeypatch):
    """As with peft 0.19.1: no HiRA, no BitFit, one config per model."""
    monkeypatch.setattr(method_module.metadata, "version", lambda name: "0.19.1")
    discover.cache_clear()
    yield
    discover.cache_clear()


def test_missing_methods_are_not_listed_and_raise_by_name(older_peft):
    methods = discover("autopeft.methods")
    assert not {"hira", "bitfit"} & set(methods) and "lora" in methods
    with pytest.raises(SpecError, match=r"HiRA needs peft 0.20 or newer, and 0.19.1 is installed"):
        methods["hira"]
    shown = CliRunner().invoke(app, ["info", "methods"]).stdout
    assert "\nhira " not in shown and "HiRA needs peft 0.20 or newer" in " ".join(shown.split())


def test_spaces_leave_missing_methods_out_of_methods_mixes_and_lists(older_peft):
    loaded = space.load("default", known_methods=discover("autopeft.methods"))
    entries = {entry.method for entries in loaded.listed.values() for entry in entries}
    assert not {"hira", "bitfit"} & {*loaded.methods, *entries} and loaded.mixes == {}


def test_searches_keep_to_plans_of_one_config(older_peft, model_dir, data_dir):
    spec = run_spec(model_dir, data_dir, budget="30%")
    base = load_skeleton(spec.model, auto_class=AUTO_CLASS)
    feasible, context = fit_to_budget(spec, base, requested_space(spec))
    for name, part in feasible.methods.items():
        for placement in part.placement:
            policy = space.Policy(method=name, placement=placement, learning_rate=1.0)
            assert len(compile_plan(space.plan_of(policy, context), context.methods).configs) == 1


def test_plan_of_several_configs_is_refused(older_peft, model_dir):
    base = load_skeleton(run_spec(model_dir).model, auto_class=AUTO_CLASS)
    configs = [peft.LoraConfig(target_modules=["query"]), peft.IA3Config(target_modules=["value"])]
    with pytest.raises(SpecError, match=r"several peft configs needs peft 0\.21\.2 or newer"):
        attach(base.module, configs, task_type=None, head_names=())
