"""`--warm-start` reads a plan or a run, and needs no more of its model than the config."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from toys import architectures as model_toys
from toys.specs import run_spec

from autopeft.adapters import check_plan
from autopeft.errors import ModelError
from autopeft.extension import discover
from autopeft.pipeline.warm_start import read_warm_start
from autopeft.records import DataSpec, ModelSpec, PlanDocument, TaskSpec
from autopeft.space import AllocationContext, Policy, plan_of
from autopeft.store import RunDir, write_plan

METHODS = discover("autopeft.methods")
TASK = SimpleNamespace(auto_class="AutoModelForSequenceClassification")


def context(base, max_params):
    scores = {site.name: 1.0 for site in base.sites}
    return AllocationContext(sites=base.sites, scores=scores, methods=METHODS, max_params=max_params)


def prepared(base, **spec):
    return SimpleNamespace(spec=run_spec(**spec), base=base, task=TASK, methods=METHODS)


def document(base, folder, max_params):
    plan = plan_of(
        Policy(method="lora", placement="attention", learning_rate=2e-3), context(base, max_params)
    )
    return PlanDocument(
        plan=plan,
        model=ModelSpec(id=str(folder)),
        data=DataSpec(),
        task=TaskSpec(),
        base_params=base.base_params,
        head_params=base.head_params,
        schedule="constant",
        seed=0,
    )


@pytest.fixture
def bert(tmp_path):
    base = model_toys.skeleton("bert", "SEQ_CLS")
    folder = tmp_path / "bert"
    base.module.config.save_pretrained(folder)
    return base, folder


def test_a_plan_of_a_model_that_has_only_a_config_moves_to_another_architecture(tmp_path, bert):
    source, folder = bert
    write_plan(tmp_path / "plan.yaml", document(source, folder, 1500))
    base = model_toys.skeleton("llama", "SEQ_CLS")
    moved = read_warm_start(tmp_path / "plan.yaml", prepared(base), context(base, 1500)).plan
    check_plan(moved, base, METHODS)
    endings = {adapter.site.rpartition(".")[2] for adapter in moved.adapters}
    assert endings == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert 0 < moved.trainable_params <= 1500 and moved.learning_rate == 2e-3


def test_a_plan_keeps_its_position_among_the_learning_rates_of_a_wider_model(tmp_path, bert):
    source, folder = bert
    write_plan(tmp_path / "plan.yaml", document(source, folder, 1500))
    wider = SimpleNamespace(name="wider", sites=source.sites, hidden_size=1536)
    run = prepared(wider)
    run.methods = METHODS.changed(lambda method: method.at_width(1536))
    moved = read_warm_start(tmp_path / "plan.yaml", run, context(source, 1500)).plan
    ranges = [catalogue["lora"].learning_rate_range for catalogue in (METHODS, run.methods)]
    there, here = (
        math.log(rate / low) / math.log(high / low)
        for rate, (low, high) in zip((2e-3, moved.learning_rate), ranges, strict=True)
    )
    assert moved.learning_rate < 2e-3 and here == pytest.approx(there, abs=1e-3)


def test_a_run_knows_its_budget_so_that_the_same_one_gives_its_plan_again(tmp_path, bert):
    source, folder = bert
    run = tmp_path / "run"
    with RunDir.create(run, resume=False) as opened:
        opened.write_spec(run_spec(folder, budget="4500"))
    saved = document(source, folder, 700)  # spends far less than it might
    write_plan(run / "best" / "plan.yaml", saved)
    same = prepared(source, model=folder)
    assert read_warm_start(run, same, context(source, 4500)).plan == saved.plan
    twice = read_warm_start(run, same, context(source, 9000)).plan
    assert saved.plan.trainable_params < twice.trainable_params <= 2 * saved.plan.trainable_params


def test_the_limit_on_ranks_holds(tmp_path, bert):
    source, folder = bert
    write_plan(tmp_path / "plan.yaml", document(source, folder, 1500))
    capped = prepared(source, model=folder, max_rank=1)
    moved = read_warm_start(tmp_path / "plan.yaml", capped, context(source, 1500)).plan
    assert {adapter.rank for adapter in moved.adapters} == {1}


def test_a_model_that_is_gone_is_needed_only_where_its_sites_are_others(tmp_path, bert):
    source, _ = bert
    saved = document(source, tmp_path / "gone", 1500)
    write_plan(tmp_path / "plan.yaml", saved)
    here = read_warm_start(tmp_path / "plan.yaml", prepared(source), context(source, 1500))
    assert here.plan == saved.plan
    other = model_toys.skeleton("llama", "SEQ_CLS")
    with pytest.raises(ModelError, match="gone"):
        read_warm_start(tmp_path / "plan.yaml", prepared(other), context(other, 1500))
