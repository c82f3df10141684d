"""The samplers in real Optuna studies, by ask and tell as the engine does."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Mapping

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution
from optuna.samplers import GPSampler
from scipy.stats import qmc

from autopeft.engine.samplers import KINDS, check_sampler, make_sampler
from autopeft.errors import SpecError, UnknownNameError
from autopeft.extension import Method, discover
from autopeft.space import MethodSpace, MixPart, Policy, Space, load, suggest

METHODS: Mapping[str, Method] = discover("autopeft.methods")
DEFAULT = load("default", known_methods=METHODS)
LORA = load("lora_only", known_methods=METHODS)
N_STARTUP = 8


def loss(policy: Policy) -> float:
    """Best at a rate of 4e-3, with all layers and an exponent of 1."""
    decades = math.log10(policy.learning_rate / 4e-3)
    return decades**2 + (1 - policy.layer_share) ** 2 + 0.1 * (policy.exponent - 1) ** 2


def run(
    kind: str, space: Space, *, n: int, seed: int = 0, every: int = 0
) -> tuple[optuna.Study, list[Policy]]:
    """Ask and tell in waves of two; each `every`-th trial has no parameters, as the head alone."""
    study, policies = optuna.create_study(), []
    for start in range(0, n, 2):
        wave = []
        for number in (start, start + 1):
            study.sampler = make_sampler(kind, seed=seed, number=number, n_startup=N_STARTUP)
            trial = study.ask()
            if not (every and number % every == 0):
                policies.append(suggest(trial, space, METHODS))
                wave.append((trial, loss(policies[-1])))
            else:
                wave.append((trial, 5.0))
        for trial, value in wave:
            study.tell(trial, value)
    return study, policies


@pytest.mark.parametrize("kind", ["tpe", "random", "qmc"])
def test_a_sampler_proposes_from_a_space_with_arms_and_mixes_and_repeats_itself(kind: str) -> None:
    _, policies = run(kind, DEFAULT, n=24, every=5)
    assert len(set(policies)) == len(policies)  # no point twice, though each trial has a fresh sampler
    assert {policy.method for policy in policies} == {"lora", "ia3", "bitfit", "ln_tuning"}
    assert run(kind, DEFAULT, n=24, every=5)[1] == policies
    assert run(kind, DEFAULT, n=24, every=5, seed=1)[1] != policies


@pytest.mark.parametrize(("kind", "n_seeds"), [("tpe", 4), ("gp", 1)])
def test_a_model_of_the_trials_finds_better_ones_than_chance(kind: str, n_seeds: int) -> None:
    modelled, chance = (
        statistics.fmean(
            loss(policy) for seed in range(n) for policy in run(name, LORA, n=20, seed=seed, every=6)[1][10:]
        )
        for name, n in ((kind, n_seeds), ("random", 20))
    )
    assert modelled < 0.6 * chance


def test_the_process_proposes_what_optunas_own_does_in_a_study_without_bare_trials() -> None:
    study, _ = run("gp", LORA, n=14, every=4)
    finished = [trial for trial in study.get_trials() if trial.params]
    assert len(finished) >= N_STARTUP
    study.sampler = make_sampler("gp", seed=3, number=14, n_startup=N_STARTUP)
    trial = study.ask()
    suggest(trial, LORA, METHODS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        reference = optuna.create_study(sampler=GPSampler(seed=3014, n_startup_trials=1))
    reference.add_trials(finished)
    space: dict[str, BaseDistribution] = finished[0].distributions
    assert trial.params == reference.ask(space).params


def test_optunas_own_process_would_turn_random_beside_bare_trials() -> None:
    # Why ours leaves them out: one trial without parameters, and nothing is shared by all.
    study, _ = run("gp", LORA, n=14, every=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        process = GPSampler(seed=0)
    trial = study.ask()
    assert process.infer_relative_search_space(study, study.get_trials()[trial.number]) == {}


@pytest.mark.parametrize("only", [("lora",), ("ia3",)])
def test_the_process_takes_one_arm(only: tuple[str, ...]) -> None:
    check_sampler("gp", load("default", known_methods=METHODS, only=only))


def test_the_process_takes_one_mix_whose_parameters_are_always_asked_for() -> None:
    mix = (MixPart(method="bottleneck", layers_by=("any",), depth_parts=2), MixPart(method="ia3"))
    space = Space(about="", mixes={"both": mix})
    check_sampler("gp", space)
    study, policies = run("gp", space, n=12)
    assert {len(trial.params) for trial in study.get_trials()} == {3}  # two parts of the depth and the rate
    assert len({policy.learning_rate for policy in policies}) == 12


@pytest.mark.parametrize(
    ("space", "complaint"),
    [
        (DEFAULT, r"gp takes one method or one mix, and the search space has 5 \(lora, ia3, bitfit, ln_"),
        (
            Space(about="", methods={"lora": MethodSpace(layers_by=("any", "last"))}),
            "lora has layers_by any beside other ways",
        ),
    ],
)
def test_the_process_refuses_conditional_parameters(space: Space, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        check_sampler("gp", space)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gp"])
def test_the_others_take_any_space(kind: str) -> None:
    check_sampler(kind, DEFAULT)


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"sampler named 'tpee'.*Did you mean 'tpe'"):
        make_sampler("tpee", seed=0, n_startup=1)


# Quasi-random points.


def points_of(seed: int, n: int, ask: Callable[[optuna.Trial], list[float]]) -> list[list[float]]:
    study = optuna.create_study()
    points = []
    for number in range(n):
        study.sampler = make_sampler("qmc", seed=seed, number=number, n_startup=0)
        trial = study.ask()
        points.append(ask(trial))
        study.tell(trial, 0.0)
    return points


def three_numbers(trial: optuna.Trial) -> list[float]:
    return [trial.suggest_float(name, 0, 1) for name in "abc"]


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_points_are_those_of_a_sobol_sequence(seed: int) -> None:
    expected = qmc.Sobol(d=128, scramble=True, rng=seed).random(8)[:, :3]
    assert points_of(seed, 8, three_numbers) == expected.tolist()


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_choices_and_the_numbers_below_each_are_spread_evenly(seed: int) -> None:
    def ask(trial: optuna.Trial) -> list[float]:
        arm = trial.suggest_categorical("arm", [0, 1])
        return [float(arm), trial.suggest_float(f"{arm}.rate", 1e-4, 1e-2, log=True)]

    points = points_of(seed, 32, ask)
    for arm in (0, 1):  # 16 each, and half of them in each decade: a net in base 2
        rates = [rate for choice, rate in points if choice == arm]
        assert len(rates) == 16 and sum(rate < 1e-3 for rate in rates) == 8


def test_whole_numbers_and_steps_are_as_likely_as_each_other() -> None:
    def ask(trial: optuna.Trial) -> list[float]:
        return [trial.suggest_int("n", 1, 4), trial.suggest_float("x", 0.5, 2.0, step=0.5)]

    points = points_of(0, 64, ask)
    for column, values in enumerate(([1, 2, 3, 4], [0.5, 1.0, 1.5, 2.0])):
        counts = {value: sum(point[column] == value for point in points) for value in values}
        assert counts == dict.fromkeys(values, 16)
