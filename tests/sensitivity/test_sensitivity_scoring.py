"""How many examples the sensitivity pass of a run reads, which ones, and what limits them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys.sensitivity import SCORES, FirstLayerLoss

from autopeft.errors import SpecError
from autopeft.setup.build import prepare
from autopeft.setup.feasible import fit_to_budget, requested_space
from autopeft.setup.opening import OpenedRun
from autopeft.setup.scoring import _batches, default_examples, logged_scores, sensitivity
from autopeft.setup.search_problem import search_problem
from autopeft.train import Compute
from autopeft.types import DataSpec, ModelSpec, RunSpec, TaskSpec, from_json, to_json
from autopeft.types import Sensitivity as Record


@pytest.fixture(scope="module")
def prepared(model_dir, data_dir):
    return prepare(
        RunSpec(
            model=ModelSpec(id=str(model_dir)),
            data=DataSpec(source=str(data_dir)),
            task=TaskSpec(batch_size=8, epochs=100),
        )
    )


def test_a_twentieth_of_a_full_run_is_shared_by_all_that_costs():
    def allowed(*names, full=10_000):
        return default_examples([SCORES[name] for name in names], full_run_examples=full)

    assert allowed("fisher") == 263  # 500 examples' worth, each for a pass (1.2) and a score (0.7)
    assert allowed("fisher", "parameters") == allowed("fisher")
    assert allowed("gradient", "fisher") == 192
    assert allowed("fisher", full=10**6) == allowed("parameters") == 512
    assert allowed("fisher", full=10) == 16


def test_sample_is_seeded_and_takes_every_example_once(prepared):
    n_train = prepared.bench.splits["train"].n_early
    batches = list(_batches(prepared, n_examples=n_train))
    again = list(_batches(prepared, n_examples=n_train))
    for first, second in zip(batches, again, strict=True):
        assert (first["input_ids"] == second["input_ids"]).all()
    lengths = np.concatenate([batch["attention_mask"].sum(1).numpy() for batch in batches])
    assert sorted(lengths) == sorted(prepared.bench.splits["train"].lengths[:n_train])
    tokens = sum(batch["input_ids"].numel() for batch in batches)
    assert tokens < 1.2 * lengths.sum()  # little padding


def test_scores_come_in_the_requested_order_and_survive_json(prepared):
    seen = sensitivity(prepared, ["parameters", "fisher", "gradient"], max_examples=24)
    assert [score.name for score in seen.scores] == ["parameters", "fisher", "gradient"]
    assert seen.n_examples == seen.n_asked == 24
    assert seen.notes == ()
    assert from_json(Record, to_json(seen)) == seen


def test_pass_has_as_many_tokens_as_fit_without_checkpointing(prepared):
    compute = Compute(micro_batch_tokens=4096, checkpointing=True, plain_tokens=40)
    tokens, task = [], prepared.task

    class Watched:
        def __getattr__(self, name):
            return getattr(task, name)

        def loss(self, model, batch):
            tokens.append(batch["input_ids"].shape)
            return task.loss(model, batch)

    checkpointed = replace(prepared, bench=replace(prepared.bench, compute=compute), task=Watched())
    seen = sensitivity(checkpointed, ["fisher"], max_examples=24)
    assert max(n_rows * n_tokens for n_rows, n_tokens in tokens if n_rows > 1) <= 40
    whole = sensitivity(prepared, ["fisher"], max_examples=24)
    assert seen.scores[0].values == pytest.approx(whole.scores[0].values, rel=1e-4)


def test_search_without_memory_for_one_example_orders_targets_by_size(prepared):
    class TinyMemory(FirstLayerLoss):
        collate = staticmethod(prepared.task.collate)

        def loss(self, model, batch):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    names = ["gradient", "fisher"]
    scores = logged_scores(replace(prepared, task=TinyMemory()), names)
    assert [score.name for score in scores] == ["parameters"]
    with pytest.raises(SpecError, match="memory"):
        sensitivity(replace(prepared, task=TinyMemory()), names)  # as `analyze` calls it
    feasible, context = fit_to_budget(prepared.spec, prepared.base, requested_space(prepared.spec))
    opened = OpenedRun(
        prepared=prepared, requested=feasible, feasible=feasible, context=context, user_plan=None
    )
    problem = search_problem(opened, scores)
    names = [target.name for target in prepared.base.targets]
    assert problem.context.scores == dict(zip(names, scores[0].values, strict=True))
    assert problem.spec.search.score == "parameters"
