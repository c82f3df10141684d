"""A run that is stopped goes on from its last state, and gives the same bits as one that never stopped."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.amp import GradScaler

from autopeft.train import kept_step, loop, pausing, watched
from autopeft.train.pausing import Position, UnderWay
from autopeft.types import Status

N_STEPS = 20


def timeless(measurement):
    return replace(measurement, train_seconds=0.0, eval_seconds=0.0, overhead_seconds=0.0)


class Stops:
    """A watcher of training steps: a signal at the n-th one, none later."""

    def __init__(self, before):
        self.left = before

    def __call__(self, *_):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture
def make_keeping(make_bench, tmp_path, monkeypatch):
    """A function: settings -> a bench that keeps a state after every step."""
    monkeypatch.setattr(pausing, "_SECONDS", 0.0)
    monkeypatch.setattr(pausing, "_SHARE", 1e9)

    def make(**settings):
        return make_bench(
            under_way=lambda plan, fidelity: tmp_path / f"{plan.digest}-{fidelity.train_steps}",
            keep_weights=lambda plan, seed: tmp_path / "weights",
            **settings,
        )

    return make


def steps_of(bench, plan, fidelity):
    """A measurement, and the numbers of the steps that it took."""
    seen = []
    with watched(lambda step, n_steps, loss: seen.append(step)):
        return bench.measure(plan, fidelity), seen


METHODS = [("lora", {}), ("lora", {"dora": True}), ("ia3", {}), ("vera", {}), ((), {})]
GATE = [("lora", {}, 2), ("lora", {}, N_STEPS), *((*method, 12) for method in METHODS)]
NIGHTLY = [(*method, before) for method in METHODS[1:] for before in (2, N_STEPS)]


@pytest.mark.parametrize(
    ("method", "choices", "before"),
    [*GATE, *(pytest.param(*case, marks=pytest.mark.nightly) for case in NIGHTLY)],
)
def test_full_run_that_was_stopped_goes_on_to_the_same_bits(
    method, choices, before, make_keeping, make_bench, make_plan, fidelity, tmp_path
):
    bench = make_keeping()  # with dropout, so that the random state must come back too
    plan = make_plan(bench.base, method, **choices)
    require_same_bits(bench, make_bench(keep_weights=bench.keep_weights), plan, fidelity, before=before)


@pytest.mark.parametrize("before", [3, 12])
def test_full_run_in_float16_goes_on_at_the_scale_of_its_gradients(
    before, make_keeping, make_base, make_bench, make_plan, fidelity, monkeypatch
):
    monkeypatch.setattr(loop, "GradScaler", partial(GradScaler, init_scale=2.0**40, growth_interval=4))
    base = make_base("bert", dropout=0.1, dtype="float16")
    bench = make_keeping(base=base)
    unbroken = make_bench(base=base, keep_weights=bench.keep_weights)
    require_same_bits(bench, unbroken, make_plan(base, "lora"), fidelity, before=before)


def require_same_bits(bench, unbroken_bench, plan, fidelity, *, before):
    """Check that a bench that is stopped goes on to the measurement and weights of one that is not."""
    full, folder = fidelity(split="confirm", train_steps=N_STEPS), bench.keep_weights(plan, 0)
    with pytest.raises(KeyboardInterrupt), watched(Stops(before)):
        bench.measure(plan, full)
    assert kept_step(bench.under_way(plan, full)) == before - 1
    resumed, steps = steps_of(bench, plan, full)
    assert resumed.status is Status.COMPLETE and steps == list(range(before, N_STEPS + 1))
    weights = (folder / "adapter_model.safetensors").read_bytes() if plan.adapters else b""
    unbroken = unbroken_bench.measure(plan, full)
    assert timeless(resumed) == timeless(unbroken)  # the steps of both lives together among it
    assert not plan.adapters or (folder / "adapter_model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(("before", "kept"), [(3, 2), (8, 7), (9, 8), (10, 8)])
def test_short_run_that_was_stopped_goes_on_too(before, kept, make_keeping, make_bench, make_plan, fidelity):
    """Its full run goes on from step 8. States are kept up to it, and none of the two steps after it."""
    bench, plain = make_keeping(full_steps=25), make_bench(full_steps=25)
    plan, short, full = (
        make_plan(bench.base, "lora"),
        fidelity(train_steps=10),
        fidelity(split="confirm", train_steps=25),
    )
    with pytest.raises(KeyboardInterrupt), watched(Stops(before)):
        bench.measure(plan, short)
    resumed, steps = steps_of(bench, plan, short)
    assert steps[-1] == 10 and steps[0] == kept + 1
    assert replace(timeless(resumed), trained_steps=10) == timeless(plain.measure(plan, short))
    assert replace(timeless(bench.measure(plan, full)), trained_steps=25) == timeless(
        plain.measure(plan, full)
    )


def test_run_that_was_stopped_while_it_was_evaluated_trains_no_step_again(
    make_keeping, make_bench, make_plan, fidelity, monkeypatch
):
    bench = make_keeping()
    plan, full = make_plan(bench.base, "lora"), fidelity(split="confirm", train_steps=N_STEPS)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(type(bench), "evaluate", lambda *_, **__: Stops(1)())
        bench.measure(plan, full)
    resumed, steps = steps_of(bench, plan, full)
    assert steps == [] and timeless(resumed) == timeless(make_bench().measure(plan, full))


def test_state_that_cannot_be_written_costs_the_run_nothing(
    make_keeping, make_bench, make_plan, fidelity, tmp_path, caplog
):
    (tmp_path / "file").touch()  # as a full disk: an OSError when the state is written
    bench = replace(make_keeping(), under_way=lambda *_: tmp_path / "file" / "state")
    plan, full = make_plan(bench.base, "lora"), fidelity(split="confirm")
    assert timeless(bench.measure(plan, full)) == timeless(make_bench().measure(plan, full))
    assert caplog.messages


class Clock:
    """Seconds that a test moves on."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    ("write_seconds", "apart"), [(0.1, 60.0), (2.0, 200.0)], ids=["fast disk", "slow disk"]
)
def test_states_are_a_minute_apart_or_take_a_hundredth_of_the_time(
    write_seconds, apart, tmp_path, monkeypatch
):
    clock, module = Clock(), torch.nn.Linear(1, 1)

    def save(*_):
        clock.now += write_seconds

    monkeypatch.setattr(pausing.torch, "save", save)
    run = UnderWay(tmp_path, clock=clock)
    clock.now = 59.0
    assert not run.is_due()  # a short run keeps nothing
    clock.now = 60.0
    assert run.is_due()
    run.keep(Position(), module, torch.optim.AdamW(module.parameters()), GradScaler(enabled=False))
    written = clock.now
    clock.now = written + apart - 1
    assert not run.is_due()
    clock.now = written + apart + 0.01
    assert run.is_due()
