"""Mixes of methods: one count, no trace on the base model, and weights that load and merge."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys.bases import EVERY_ARCHITECTURE, PEFT_TASKS, adapters_of, state_of, toy_base
from toys.lives import live, n_trainable

from autopeft.adapters import compile_plan
from autopeft.plugins import discover
from autopeft.types import Adapter, Plan

METHODS = discover("autopeft.methods")


@st.composite
def bases(draw):
    """Any toy architecture, of a hidden size with other divisors than a power of two has."""
    architecture = draw(st.sampled_from(EVERY_ARCHITECTURE))
    return toy_base(architecture, hidden=draw(st.sampled_from([8, 12, 24, 40])), seed=draw(st.integers(0, 9)))


@st.composite
def mixes(draw, base):
    """At each target nothing or any method that fits, with any options and rank; one shared state at most."""
    shared = draw(st.sampled_from([name for name, method in METHODS.items() if method.shared]))
    common = {option: draw(st.sampled_from(values)) for option, values in METHODS[shared].choices.items()}
    adapters = []
    for target in base.targets:
        fitting = [
            name
            for name, method in METHODS.items()
            if method.refusal(target) is None and (not method.shared or name == shared)
        ]
        name = draw(st.sampled_from([None, *fitting]))
        if name is not None:
            method = METHODS[name]
            drawn = {option: draw(st.sampled_from(values)) for option, values in method.choices.items()}
            options = method.options(target, **(common if name == shared else drawn))
            rank = draw(st.sampled_from(method.ranks(target, options)[:12])) if method.ranked else 0
            adapters.append(
                Adapter(
                    method=name,
                    target=target.name,
                    rank=rank,
                    scale=draw(st.sampled_from([1.0, 2.0, 0.37])) if method.scale(1) != 1.0 else 1.0,
                    options=tuple(options.items()),
                )
            )
    return adapters


def random_plan(data, base):
    adapters = data.draw(mixes(base))
    targets = {target.name: target for target in base.targets}
    cost = sum(METHODS[a.method].cost(targets[a.target], a.rank, dict(a.options)) for a in adapters)
    return Plan(adapters=tuple(adapters), learning_rate=1e-3, trainable_params=cost)


@settings(derandomize=True, suppress_health_check=list(HealthCheck))
@given(bases(), st.data())
def test_three_counts_agree_and_detaching_leaves_no_trace(base, data):
    plan = random_plan(data, base)
    digest, before = base.sha256(), state_of(base.module)
    task_type = PEFT_TASKS.get(base.name.removeprefix("toy "), "SEQ_CLS")
    with base.attached(compile_plan(plan, METHODS).configs, plan=plan, task_type=task_type, seed=0) as model:
        assert set(n_trainable(model, base).values()) == {plan.trainable_params}
    assert (base.sha256(), state_of(base.module)) == (digest, before)


def mixed(base):
    """At each target the method that fewest have so far, but none with a shared state; ranks 1 to 3."""
    adapters, n_uses = [], Counter()
    for i, target in enumerate(base.targets):
        fitting = [m for m in METHODS.values() if m.refusal(target) is None and not m.shared]
        if fitting:
            method = min(fitting, key=lambda method: n_uses[method.name])
            n_uses[method.name] += 1
            adapters += adapters_of(method, [target], rank=1 + i % 3)
    return adapters


@pytest.fixture(scope="module")
def life(request, make_base, make_plan, attach, batch_for, tmp_path_factory):
    """What was seen of a mix of methods, trained and loaded."""
    base = make_base(request.param)
    plan = make_plan(base, mixed(base))
    names, folder = compile_plan(plan, METHODS).names, tmp_path_factory.mktemp("weights")
    spare = toy_base(request.param)
    return live(base, spare, plan, batch=batch_for(base), attach=attach, names=names, folder=folder)


every_life = pytest.mark.parametrize("life", EVERY_ARCHITECTURE, indirect=True)


@every_life
def test_mix_of_methods_costs_the_sum_and_leaves_the_base_model_alone(life):
    assert len({adapter.method for adapter in life.plan.adapters}) >= 4
    assert set(life.n_trainable.values()) == {life.plan.trainable_params}
    assert min(life.largest_gradients.values()) > 1e-8
    assert life.is_left_alone == [True, True]


@every_life
def test_mix_of_methods_saves_loads_and_merges(life):
    assert not torch.equal(life.untrained, life.trained)
    assert torch.equal(life.loaded, life.trained)
    torch.testing.assert_close(life.merged, life.trained, rtol=0, atol=1e-5)
