"""The first rung: enqueue the baselines, ask the sampler, measure, tell."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import Trial, TrialState, create_trial

from autopeft.engine.ledger import Ledger, Question, by_loss
from autopeft.records import MAX_SEED, Measurement, Plan, Proposal
from autopeft.space import Policy, baseline_policies, learning_rates, parameters_of, plan_of, suggest

HEAD_ARM = "head"
BASELINE_ARM = "baseline"
GREEDY_ARM = "greedy"
_WAVE = 4  # proposals asked for at once; fixed, so that the number of workers changes nothing
_MAX_RATES = 3  # learning rates of each enqueued arm
_N_STARTUP = 8  # trials before TPE models anything; the enqueued ones count

log = logging.getLogger(__name__)
Enqueued = Sequence[tuple[str, Policy]]


@dataclass(kw_only=True)
class Proposer:
    """Runs the study by ask and tell, in waves, every loss told at one common step."""

    question: Question
    ledger: Ledger
    storage: BaseStorage
    proposals: list[Proposal] = field(default_factory=list)
    policies: list[Policy] = field(default_factory=list)
    _study: optuna.Study | None = None

    def run(self) -> dict[Plan, Measurement]:
        """Every plan of the study with its measurement at the first rung."""
        question, schedule = self.question, self.question.schedule
        n_trials, steps = question.spec.search.trials, schedule.rung_steps[0]
        study = optuna.create_study(study_name="autopeft", storage=self.storage, direction="minimize")
        self._study = study
        queue = self._queue()
        self.ledger.progress.phase("rung 1", n_trials)
        fidelity = schedule.fidelity("search", steps=steps, seed=question.seed)
        seen: dict[Plan, Measurement] = {}
        for start in range(0, n_trials, _WAVE):
            if start >= len(queue) and not self.has_time():
                log.warning("Time is short: %d of %d trials are measured.", start, n_trials)
                break
            if start:  # the first wave is always measured, so that there is a run to resume
                self.ledger.require_time()
            wave = [self._ask(study, queue) for _ in range(min(_WAVE, n_trials - start))]
            results = self.ledger.measure_all([(proposal.plan, fidelity) for _, proposal in wave])
            for (trial, proposal), result in zip(wave, results, strict=True):
                self._tell(study, trial, result)
                seen[proposal.plan] = result
        return seen

    def has_time(self) -> bool:
        """For this wave and a short second rung, with the confirmation of two plans in reserve."""
        schedule, ledger = self.question.schedule, self.ledger
        rungs = [schedule.fidelity("search", steps=steps, seed=0) for steps in schedule.rung_steps]
        seconds = _WAVE * math.fsum(ledger.estimate(rung) for rung in rungs)
        return ledger.has_time_for(seconds=seconds, reserve=ledger.confirm_reserve(self.question))

    def _queue(self) -> Enqueued:
        """Baselines and the head alone, each with as many learning rates, then the greedy plan.

        The queue takes half of the trials at most (from eight on), so that the sampler gets the rest.
        """
        space, methods = self.question.space, self.question.ground.methods
        low, high = learning_rates(space, "lora", methods)
        cap = space.methods["lora"].max_rank if "lora" in space.methods else None
        found = {}
        if self.question.has_baseline:
            found = baseline_policies(self.question.ground, learning_rate=low, max_rank=cap)
        trials = self.question.first_trials
        n_rates = max(1, min(_MAX_RATES, (trials // 2 - 1) // (len(found) + 1)))  # 1 for the greedy plan
        queue: list[tuple[str, Policy]] = []
        for rate in spread(low, high, n_rates):
            queue += [
                (f"{BASELINE_ARM}: {name}", replace(own, learning_rate=rate)) for name, own in found.items()
            ]
        for rate in spread(*self.question.head_rates, n_rates):
            queue.append((HEAD_ARM, Policy(method=HEAD_ARM, learning_rate=rate)))
        if "lora" in space.methods:
            rate = spread(low, high, 1)[0]
            greedy = Policy(method="lora", exponent=1.0, max_rank=cap, learning_rate=rate)
            queue.append((f"{GREEDY_ARM} by {self.question.spec.search.score}", greedy))
        return queue[:trials]

    def _ask(self, study: optuna.Study, queue: Enqueued) -> tuple[Trial, Proposal]:
        space, methods = self.question.space, self.question.ground.methods
        number = len(self.proposals)
        source = "enqueued" if number < len(queue) else self._source(number - len(queue))
        study.sampler = self._sampler(source, number)
        if number < len(queue):
            arm, policy = queue[number]
            if arm.startswith(GREEDY_ARM):
                policy = replace(policy, learning_rate=self._best_baseline_rate(default=policy.learning_rate))
            parameters = parameters_of(policy, space, methods)
            study.enqueue_trial(parameters or {})
            trial = study.ask()
            if parameters is not None:
                suggest(trial, space, methods)  # registers the enqueued values, so that TPE learns from them
        else:
            trial = study.ask()
            policy = suggest(trial, space, methods)
            arm = policy.arm
        plan = self._plan(policy)
        proposal = Proposal(trial=trial.number, arm=arm, source=source, plan=plan)
        self.proposals.append(proposal)
        self.policies.append(policy)
        self.ledger.arms.setdefault(plan, arm)
        for name, value in _facts(proposal).items():
            trial.set_user_attr(name, value)
        return trial, proposal

    def note_twin(self, arm: str, plan: Plan) -> None:
        """Count a plan among the proposals that stands beside one of them and is not the sampler's."""
        self.proposals.append(Proposal(trial=len(self.proposals), arm=arm, source="twin", plan=plan))
        self.ledger.arms.setdefault(plan, arm)

    def tell_twin(self, plan: Plan, result: Measurement) -> None:
        """Put a measured twin into the study, where nothing is asked any more."""
        assert self._study is not None, "twins come after the proposals"
        proposal = next(own for own in self.proposals if own.plan == plan and own.source == "twin")
        self._study.add_trial(
            create_trial(
                value=result.loss,
                state=TrialState.FAIL if result.loss is None else TrialState.COMPLETE,
                user_attrs=_facts(proposal),
            )
        )

    def _best_baseline_rate(self, *, default: float) -> float:
        """The baseline's best learning rate so far: the greedy plan differs from it in its ranks alone."""
        arms = self.ledger.arms
        told = [m for m in self.ledger.measured.values() if arms.get(m.plan, "").startswith(BASELINE_ARM)]
        finished = [m for m in told if m.loss is not None]
        return min(finished, key=by_loss).plan.learning_rate if finished else default

    def _plan(self, policy: Policy) -> Plan:
        if policy.method == HEAD_ARM:
            return Plan(adapters=(), learning_rate=policy.learning_rate, trainable_params=0)
        return plan_of(policy, self.question.ground)

    def _source(self, index: int) -> str:
        """Random proposals are spread evenly among the sampled ones; they show what the sampler adds."""
        share = self.question.space.random_share
        is_random = math.floor((index + 1) * share + 0.5) > math.floor(index * share + 0.5)
        return "random" if is_random else "sampler"

    def _sampler(self, source: str, number: int) -> BaseSampler:
        """A sampler for one trial; its seed moves on with the trial, so that no point is repeated."""
        seed = (1000 * self.question.seed + number) % (MAX_SEED + 1)
        if source != "sampler":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of group=True
            return TPESampler(
                multivariate=True, group=True, constant_liar=True, n_startup_trials=_N_STARTUP, seed=seed
            )

    def _tell(self, study: optuna.Study, trial: Trial, result: Measurement) -> None:
        """Tell the loss; a diverged rate is told as twice the worst, so that the sampler shuns it."""
        if result.loss is not None:
            study.tell(trial, result.loss)
        elif result.error is not None and "diverged" in result.error:
            study.tell(trial, 2 * self.ledger.worst_loss())
        else:
            study.tell(trial, state=TrialState.FAIL)


def _facts(proposal: Proposal) -> dict[str, str | int]:
    """What the study remembers of a proposal."""
    plan = proposal.plan
    return {
        "arm": proposal.arm,
        "source": proposal.source,
        "plan": plan.digest,
        "trainable_params": plan.trainable_params,
    }


def spread(low: float, high: float, n: int) -> tuple[float, ...]:
    """N learning rates inside a range, evenly spaced in the logarithm, ends left out.

    Example:
        >>> [round(rate, 3) for rate in spread(0.001, 0.1, 1)]
        [0.01]
    """
    step = math.log(high / low) / (n + 1)
    return tuple(low * math.exp(step * (index + 1)) for index in range(n))
