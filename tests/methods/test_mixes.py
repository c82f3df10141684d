"""Random mixes on random architectures: one count, and no trace."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys.bases import EVERY_ARCHITECTURE, PEFT_TASKS, state_of, toy_base

from autopeft.adapters import compile_plan
from autopeft.extension import discover
from autopeft.records import Adapter, Plan

METHODS = discover("autopeft.methods")


@st.composite
def bases(draw):
    """Any toy architecture, of a hidden size with other divisors than a power of two has."""
    architecture = draw(st.sampled_from(EVERY_ARCHITECTURE))
    return toy_base(architecture, hidden=draw(st.sampled_from([8, 12, 24, 40])), seed=draw(st.integers(0, 9)))


@st.composite
def mixes(draw, base):
    """At each site nothing or any method that fits, with any options and rank.

    One method with a shared state at most, and one with virtual tokens.
    """
    shared = draw(st.sampled_from([name for name, method in METHODS.items() if method.shared]))
    common = {option: draw(st.sampled_from(values)) for option, values in METHODS[shared].choices.items()}
    adapters = []
    virtual = draw(st.sampled_from(["inputs", "cache"]))  # a plan has prompts or a prefix
    for site in base.sites:
        if site.kind == "model" and site.name != virtual:
            continue
        fitting = [
            name
            for name, method in METHODS.items()
            if method.refusal(site) is None and (not method.shared or name == shared)
        ]
        name = draw(st.sampled_from([None, *fitting]))
        if name is not None:
            method = METHODS[name]
            drawn = {option: draw(st.sampled_from(values)) for option, values in method.choices.items()}
            options = method.options(site, **(common if name == shared else drawn))
            most = 20 if site.kind == "model" else 10**6  # tokens: there are 32 positions
            ranks = [rank for rank in method.ranks(site, options)[:12] if rank <= most]
            rank = draw(st.sampled_from(ranks)) if method.ranked else 0
            adapters.append(
                Adapter(
                    method=name,
                    site=site.name,
                    rank=rank,
                    scale=draw(st.sampled_from([1.0, 2.0, 0.37])) if method.scale(1) != 1.0 else 1.0,
                    options=tuple(options.items()),
                )
            )
    return adapters


def random_plan(data, base):
    adapters = data.draw(mixes(base))
    sites = {site.name: site for site in base.sites}
    cost = sum(METHODS[a.method].cost(sites[a.site], a.rank, dict(a.options)) for a in adapters)
    return Plan(adapters=tuple(adapters), learning_rate=1e-3, trainable_params=cost)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(bases(), st.data())
def test_three_counts_agree_and_detaching_leaves_no_trace(base, data):
    plan = random_plan(data, base)
    digest, before = base.sha256(), state_of(base.module)
    task_type = PEFT_TASKS.get(base.name.removeprefix("toy "), "SEQ_CLS")
    with base.attached(compile_plan(plan, METHODS).configs, plan=plan, task_type=task_type, seed=0) as model:
        told, _ = model.get_nb_trainable_parameters()
        summed = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert plan.trainable_params == summed - base.head_params == told - base.head_params
    assert (base.sha256(), state_of(base.module)) == (digest, before)
