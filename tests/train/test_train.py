"""The training loop: repeatable, alike for all plans, and not affected by trials that fail."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toys.bases import state_of

from autopeft.adapters import compile_plan
from autopeft.errors import TrainingError
from autopeft.train import full_run_steps
from autopeft.train.compute import failure_of
from autopeft.train.rates import RateSchedule, parameter_groups
from autopeft.types import Status


def faked(task, loss):
    """The task with another loss."""
    names = ("name", "metric", "peft_task_type", "auto_class", "encode", "collate")
    members = {name: getattr(task, name) for name in (*names, "n_terms", "evaluate")}
    return SimpleNamespace(**members, loss=loss)


def timeless(measurement):
    return replace(measurement, train_seconds=0.0, eval_seconds=0.0, overhead_seconds=0.0)


@pytest.fixture
def plan(make_base, make_plan):
    """LoRA of rank 2 at every linear layer of the toy BERT."""
    return make_plan(make_base("bert"), "lora")


def test_same_seed_gives_the_same_measurement_and_another_seed_another(plan, make_bench, fidelity):
    bench = make_bench()  # with dropout, so that its draws must repeat too
    measured = []
    for state, seed in enumerate((1, 1, 2)):
        torch.manual_seed(state)  # must not matter
        measured.append(timeless(bench.measure(plan, fidelity(seed=seed))))
    first, again, other = measured
    assert first.status is Status.COMPLETE
    assert first == again
    assert first.loss != other.loss


def test_measurement_does_not_depend_on_what_was_measured_before(plan, make_plan, make_bench, fidelity):
    busy, fresh = make_bench(), make_bench()
    for method in ("ia3", "ln_tuning"):
        assert busy.measure(make_plan(busy.base, method), fidelity(seed=9)).error is None
    assert busy.measure(replace(plan, learning_rate=1e30), fidelity()).status is Status.DIVERGED
    assert timeless(busy.measure(plan, fidelity())) == timeless(fresh.measure(plan, fidelity()))


@pytest.mark.parametrize(
    ("n_train", "epochs", "max_steps", "steps"),
    [(100, 1.5, None, 5), (100, 3.0, None, 9), (100, 0.1, None, 1), (100, 3.0, 7, 7), (10, 2.0, None, 2)],
)
def test_full_run_is_its_epochs_of_full_batches(n_train, epochs, max_steps, steps):
    assert full_run_steps(n_train=n_train, batch_size=32, epochs=epochs, max_steps=max_steps) == steps


def test_learning_rate_warms_up_over_6_percent_and_falls_in_a_line():
    schedule = RateSchedule(n_steps=100, n_full=100)
    rates = [schedule.share(step) for step in range(100)]
    assert rates[:6] == pytest.approx([(step + 1) / 6 for step in range(6)])
    assert rates[5:] == pytest.approx([(100 - step) / 95 for step in range(5, 100)])


@pytest.mark.parametrize(("n_short", "n_full", "branch"), [(75, 300, 60), (10, 25, 8), (1, 2, 0)])
def test_short_run_begins_like_its_full_run_and_decays_in_a_line_from_the_branch(n_short, n_full, branch):
    short, full = (RateSchedule(n_steps=n, n_full=n_full) for n in (n_short, n_full))
    assert short.branch == branch
    shares = [short.share(step) for step in range(n_short)]
    assert shares[:branch] == [full.share(step) for step in range(branch)]
    n_decay = n_short - branch
    assert shares[branch:] == pytest.approx(
        [full.share(branch) * (n_decay - step) / n_decay for step in range(n_decay)]
    )


@pytest.mark.parametrize("method", ["lora", ()], ids=["adapters", "head"])
def test_first_step_moves_the_head_by_its_own_rate(
    method, bert, attach, make_bench, make_plan, fidelity, tmp_path
):
    plan = make_plan(bert, method, learning_rate=0.01)
    bench = make_bench(keep_weights=lambda plan, seed: tmp_path)
    batches = bench.sample_batches(n_examples=32, batch_size=8, seed=0)
    with torch.no_grad():
        inputs = [
            bert.module.bert(batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output
            for batch in batches
        ]
    rms = np.sqrt(np.mean(torch.cat(inputs).double().numpy() ** 2))
    head_rate = 2.0 / (16 * rms) if method else 0.01
    bench.measure(plan, fidelity(split="confirm", train_steps=1))
    with attach(bert, plan, seed=0) as model:
        start = model.base_model.model.classifier.modules_to_save["default"].weight.detach().clone()
    moved = load_file(tmp_path / "adapter_model.safetensors")["base_model.model.classifier.weight"] - start
    # Adam's first step is the rate times the gradient's sign, up to its epsilon.
    assert moved.abs().median().item() == pytest.approx(head_rate, rel=1e-3)


@pytest.mark.parametrize("n_steps", [20, 1])
def test_divergence_is_a_measurement_and_no_error(n_steps, plan, make_bench, fidelity):
    bench = make_bench()
    digest, before = bench.base.sha256(), state_of(bench.base.module)
    # Norms absorb a rate of 1e6, so that the loss is bad but finite; 1e30 overflows in the next pass.
    seen = bench.measure(replace(plan, learning_rate=1e30), fidelity(train_steps=n_steps))
    assert (seen.status, seen.metric, seen.loss, seen.example_scores) == (Status.DIVERGED, None, None, ())
    assert (bench.base.sha256(), state_of(bench.base.module)) == (digest, before)


def test_error_of_a_run_is_a_failed_measurement(task, plan, make_bench, fidelity):
    def loss(model, batch):
        raise RuntimeError("The disk is full.\nSecond line")

    bench = make_bench(task=faked(task, loss))
    digest, before = bench.base.sha256(), state_of(bench.base.module)
    seen = bench.measure(plan, fidelity())
    assert (seen.status, seen.metric) == (Status.FAIL, None)
    assert "The disk is full." in seen.error
    assert (bench.base.sha256(), state_of(bench.base.module)) == (digest, before)


@pytest.mark.parametrize(
    ("text", "status"), [("device-side assert", None), ("out of memory", Status.OUT_OF_MEMORY)]
)
def test_a_broken_gpu_ends_the_search_and_one_without_memory_only_the_run(text, status):
    error = torch.AcceleratorError(f"CUDA error: {text}\nmore")
    with nullcontext() if status else pytest.raises(TrainingError, match="--resume"):
        assert failure_of(error, is_quantized=False)[0] is status


def test_interrupt_is_no_failed_trial_and_leaves_the_base_model_clean(task, plan, make_bench, fidelity):
    def loss(model, batch):
        raise KeyboardInterrupt("ctrl-c")

    bench = make_bench(task=faked(task, loss))
    digest = bench.base.sha256()
    with pytest.raises(KeyboardInterrupt, match="ctrl-c"):
        bench.measure(plan, fidelity())
    assert bench.base.sha256() == digest


def test_trial_that_changed_the_base_model_stops_everything(task, plan, make_bench, fidelity):
    def loss(model, batch):
        if torch.is_grad_enabled():
            with torch.no_grad():
                model.base_model.model.bert.embeddings.word_embeddings.weight[0] += 1.0
        return task.loss(model, batch)

    with pytest.raises(TrainingError, match="word_embeddings"):
        make_bench(task=faked(task, loss)).measure(plan, fidelity())


@pytest.mark.parametrize("chosen", ["lora", "mix", "head"])
def test_test_split_is_scored_with_the_weights_that_confirmation_kept(
    chosen, bert, make_bench, make_plan, fidelity, tmp_path
):
    adapters = {"lora": "lora", "mix": mix_of(bert, make_plan), "head": ()}[chosen]
    plan = make_plan(bert, adapters)
    bench = make_bench(keep_weights=lambda plan, seed: tmp_path / f"{plan.digest}-{seed}")
    same_rows = replace(bench, splits={**bench.splits, "test": bench.splits["confirm"]})
    confirmed = bench.measure(plan, fidelity(split="confirm", seed=4))
    tested = same_rows.measure(plan, fidelity(split="test", seed=4))
    assert confirmed.error is None
    assert tested.example_scores == confirmed.example_scores
    assert (tested.metric, tested.loss, tested.train_seconds) == (confirmed.metric, confirmed.loss, 0.0)


def mix_of(base, make_plan):
    """IA3 at the roles q and k, LoRA at the others, every second one of them with DoRA."""
    kept = {target.name for target in base.targets if target.role in ("q", "k")}
    plain, dora = make_plan(base, "lora").adapters, make_plan(base, "lora", dora=True).adapters
    pairs = [
        pair[i % 2] for i, pair in enumerate(zip(plain, dora, strict=True)) if pair[0].target not in kept
    ]
    return [a for a in make_plan(base, "ia3").adapters if a.target in kept] + pairs


def test_seconds_beside_training_and_evaluation_are_counted(plan, make_bench, fidelity, tmp_path):
    def slow_folder(plan, seed):
        time.sleep(0.3)
        return tmp_path

    bench, at = make_bench(keep_weights=slow_folder), fidelity(split="confirm")
    started = time.perf_counter()
    seen = bench.measure(plan, at)
    assert 0.3 <= seen.overhead_seconds <= time.perf_counter() - started
    assert seen.total_seconds == seen.train_seconds + seen.eval_seconds + seen.overhead_seconds


def test_scores_stand_in_dataset_order_however_the_rows_were_batched(bert, make_bench):
    bench = make_bench(base=bert)
    n_tokens = bench.splits["search"].lengths
    seen = bench.evaluate(bert.module, "search")
    one_by_one = [
        bench.task.evaluate(bert.module, iter([bench.collate("search", [i])[0]])) for i in range(24)
    ]
    assert (np.diff(n_tokens) < 0).any()
    assert list(seen.example_scores) == [evaluation.metric for evaluation in one_by_one]
    assert seen.loss == pytest.approx(math.fsum(evaluation.loss for evaluation in one_by_one) / 24, abs=1e-6)


def test_fewer_examples_are_a_fixed_random_part_of_the_split(bert, make_bench):
    bench = make_bench(base=bert)
    every, some, fewer = (bench.evaluate(bert.module, "search", n_examples=n) for n in (None, 10, 4))
    rows, few_rows = (bench.splits["search"].subset(n) for n in (10, 4))
    assert some.example_scores == tuple(every.example_scores[i] for i in rows)
    assert fewer.example_scores == tuple(every.example_scores[i] for i in few_rows)
    assert set(few_rows) < set(rows) and rows != list(range(10))


def test_counted_bytes_cover_the_optimizer_and_grow_with_the_batch(plan, make_bench, fidelity):
    small, large = (make_bench(batch_size=n).measure(plan, fidelity()).peak_bytes for n in (4, 16))
    trained = plan.trainable_params + 2 * 16 + 2  # with the head
    assert 3 * 4 * trained < small < large  # gradients and two moments of four bytes each


def test_sample_for_the_scores_is_seeded_and_has_no_row_twice(make_bench):
    bench = make_bench()
    first, again, other = (bench.sample_batches(n_examples=20, batch_size=8, seed=s) for s in (1, 1, 2))
    rows = [tuple(row) for batch in first for row in batch["input_ids"].tolist()]
    assert [len(batch["labels"]) for batch in first] == [8, 8, 4]
    assert len(set(rows)) == 20  # the toy texts all differ
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, again, strict=True))
    assert rows != [tuple(row) for batch in other for row in batch["input_ids"].tolist()]


def test_methods_of_a_mix_train_at_their_own_rates(make_bench, make_plan):
    bench = make_bench()
    lora = [a for a in make_plan(bench.base, "lora").adapters if a.target.endswith("query")]
    vectors = [
        replace(a, rate_factor=8.0)
        for a in make_plan(bench.base, "ia3").adapters
        if a.target.endswith("value")
    ]
    plan = make_plan(bench.base, [*lora, *vectors], learning_rate=1e-3)
    configs = compile_plan(plan, bench.methods).configs
    with bench.base.attached(configs, plan=plan, task_type="SEQ_CLS", seed=0) as model:
        names = {id(p): name for name, p in model.named_parameters()}
        groups = parameter_groups(model, plan, heads=bench.head_rates, methods=bench.methods)
        rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    assert {rate for name, rate in rates.items() if ".lora_" in name} == {1e-3}
    assert {rate for name, rate in rates.items() if ".ia3_l." in name} == {8e-3}
