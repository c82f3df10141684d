"""The samplers in real Optuna studies, by ask and tell as the engine does."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Mapping

import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.samplers import GPSampler

from autopeft.engine.propose import capped, make_sampler
from autopeft.extension import Method, discover
from autopeft.space import MixPart, Policy, Space, load, suggest

METHODS: Mapping[str, Method] = discover("autopeft.methods")
DEFAULT = load("default", known_methods=METHODS)
LORA = load("lora_only", known_methods=METHODS)
N_STARTUP = 8


def loss(policy: Policy) -> float:
    """Best at a rate of 4e-3, with all layers and an exponent of 1."""
    decades = math.log10(policy.learning_rate / 4e-3)
    return decades**2 + (1 - policy.layer_share) ** 2 + 0.1 * (policy.exponent - 1) ** 2


def run(kind: str, space: Space, *, n: int, seed: int = 0) -> tuple[optuna.Study, list[Policy]]:
    """Ask and tell in waves of two."""
    study, policies = optuna.create_study(), []
    for start in range(0, n, 2):
        wave = []
        for number in (start, start + 1):
            study.sampler = make_sampler(kind, seed=seed, number=number, n_startup=N_STARTUP)
            trial = study.ask()
            policies.append(suggest(trial, space, METHODS))
            wave.append((trial, loss(policies[-1])))
        for trial, value in wave:
            study.tell(trial, value)
    return study, policies


@pytest.mark.parametrize("kind", ["auto", "tpe", "random"])
def test_a_sampler_proposes_from_a_space_with_arms_and_mixes_and_repeats_itself(kind: str) -> None:
    _, policies = run(kind, DEFAULT, n=16)
    assert len(set(policies)) == len(policies)  # no point twice, though each trial has a fresh sampler
    assert len({policy.method for policy in policies}) > 2
    assert run(kind, DEFAULT, n=16)[1] == policies
    assert run(kind, DEFAULT, n=16, seed=1)[1] != policies


@pytest.mark.parametrize(("kind", "n_seeds"), [("tpe", 4), ("gp", 1)])
def test_a_model_of_the_trials_finds_better_ones_than_chance(kind: str, n_seeds: int) -> None:
    modelled, chance = (
        statistics.fmean(
            loss(policy) for seed in range(n) for policy in run(name, LORA, n=20, seed=seed)[1][10:]
        )
        for name, n in ((kind, n_seeds), ("random", 20))
    )
    assert modelled < 0.6 * chance


def test_the_process_proposes_what_optunas_own_does() -> None:
    study, _ = run("gp", LORA, n=14)
    finished = study.get_trials()
    assert len(finished) >= N_STARTUP
    study.sampler = make_sampler("gp", seed=3, number=14, n_startup=N_STARTUP)
    trial = study.ask()
    suggest(trial, LORA, METHODS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        reference = optuna.create_study(sampler=GPSampler(seed=3014, n_startup_trials=1))
    reference.add_trials(capped(finished))
    space: dict[str, BaseDistribution] = finished[0].distributions
    assert trial.params == reference.ask(space).params


def test_the_process_asks_every_parameter_of_a_mix() -> None:
    mix = (MixPart(method="lora", placement=("all", "q+v")), MixPart(method="ia3"))
    space = Space(about="", mixes={"both": mix})
    study, policies = run("gp", space, n=12)
    assert {len(trial.params) for trial in study.get_trials()} == {2}  # the placement and the rate
    assert len({policy.learning_rate for policy in policies}) == 12
