"""The first rung: enqueue the baselines, ask the sampler, measure, tell."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import Trial, TrialState, create_trial

from autopeft.engine.front import excess
from autopeft.engine.ledger import Ledger, SearchProblem, by_loss, is_baseline
from autopeft.engine.paired import is_better
from autopeft.engine.refine import moved_ranks, next_rate
from autopeft.engine.samplers import make_sampler
from autopeft.engine.schedule import later_cost, n_first
from autopeft.records import Arm, Fidelity, Measurement, Plan, Proposal, Status
from autopeft.space import (
    Policy,
    Space,
    baseline_policies,
    learning_rates,
    parameters_of,
    plan_of,
    suggest,
)

HEAD = "head"  # the method of a plan without adapters
_WAVE = 4  # proposals asked for at once; fixed, so that the number of workers changes nothing
_QUEUE_SHARE = 0.45  # of the trials at most, so that half of the search's cost goes to sampled policies
_LEAST_ROOM = 5  # baseline and head at two rates each, and the greedy plan, in half of the trials
_MAX_RATES = 3  # learning rates of each enqueued arm
_MAX_EVENED = 5  # the baseline gets as many as the arm with the most, up to so many
_N_STARTUP = 8  # trials before TPE models anything; the enqueued ones count
_REFINED_EVERY = 6  # of the sampled proposals one is a small step from the incumbent

_SURE = 1.96  # standard errors: the 95 % interval

log = logging.getLogger(__name__)
Enqueued = Sequence[tuple[Arm, Policy | Plan]]


@dataclass(kw_only=True)
class Proposer:
    """Runs the study by ask and tell, in waves, every loss told at one common step.

    `policies` stand beside the proposals, None for a plan that comes from no policy.
    """

    problem: SearchProblem
    ledger: Ledger
    storage: BaseStorage
    proposals: list[Proposal] = field(default_factory=list)
    policies: list[Policy | None] = field(default_factory=list)
    _study: optuna.Study | None = None

    def run(self) -> dict[Plan, Measurement]:
        """Every plan of the study with its measurement at the first rung."""
        problem = self.problem
        n_trials = n_proposals(problem)
        study = optuna.create_study(study_name="autopeft", storage=self.storage, direction="minimize")
        self._study = study
        queue = self._queue()
        self.ledger.progress.phase("rung 1", n_trials)
        fidelity = problem.schedule.rung(0, seed=problem.seed)
        seen: dict[Plan, Measurement] = {}
        for start in range(0, n_trials, _WAVE):
            if start >= len(queue) and not (
                self.has_time() and self.within_cost(start=start) and self.is_patient()
            ):
                break
            if start:  # the first wave is always measured, so that there is a run to resume
                self.ledger.require_time()
            wave = [self._ask(study, queue) for _ in range(min(_WAVE, n_trials - start))]
            results = self.ledger.measure_all([(proposal.plan, fidelity) for _, proposal in wave])
            for (trial, proposal), result in zip(wave, results, strict=True):
                self._tell(study, trial, result)
                seen[proposal.plan] = result
        return seen | self._even_out(seen, fidelity)

    def has_time(self) -> bool:
        """For this wave and a short further rung, with the confirmation of two plans in reserve."""
        schedule, ledger = self.problem.schedule, self.ledger
        seconds = _WAVE * math.fsum(
            ledger.estimate(schedule.rung(index, seed=0), new_steps=schedule.new_steps(index))
            for index in range(len(schedule.rung_steps))
        )
        has_time = ledger.has_time_for(seconds=seconds, reserve=ledger.confirm_reserve(self.problem))
        if not has_time:
            log.warning("Time is short: %d proposals are measured.", len(self.proposals))
        return has_time

    def within_cost(self, *, start: int) -> bool:
        """Whether another wave leaves enough of --max-cost for the rungs above."""
        limit, schedule = self.problem.spec.search.max_cost, self.problem.schedule
        if limit is None:
            return True
        cost = self.ledger.cost(schedule) + _WAVE * schedule.rung_cost(0) + later_cost(schedule)
        if cost > limit:
            log.info("The cost limit of %g R is reached after %d proposals.", limit, start)
        return cost <= limit

    def is_patient(self) -> bool:
        """Whether one of the last --patience sampled proposals was better than all before it.

        Better is a lower loss, or a metric above the one of the lowest loss by the 95 % interval of their
        difference on the same examples.
        """
        patience = self.problem.spec.search.patience
        if patience is None:
            return True
        best: Measurement | None = None
        n_idle, told = 0, self._told()
        for proposal in self.proposals:
            found = told[proposal.plan]
            n_idle += proposal.source != "enqueued"
            if found.loss is None:
                continue
            is_first = best is None or by_loss(found) < by_loss(best)
            if is_first or (best and is_better(self.problem, found, best, std_errors=_SURE)):
                best, n_idle = found, 0
        if n_idle >= patience:
            log.info("The last %d sampled proposals brought nothing better: no more are asked for.", n_idle)
        return n_idle < patience

    def _queue(self) -> Enqueued:
        """What is measured first: baselines, what the user gave, the head, the greedy plan, usual arms.

        Each at as many learning rates, but for the greedy plan, which takes the baseline's best. The
        sampler gets the rest of the trials, more than half of them.
        """
        problem, methods = self.problem, self.problem.context.methods
        room = max(int(_QUEUE_SHARE * problem.first_trials), min(_LEAST_ROOM, problem.first_trials // 2))
        low, high = learning_rates(problem.space, "lora", methods)
        cap = problem.spec.limits.max_rank  # which the space's own cap keeps to as well
        if "lora" in problem.space.methods:
            cap = problem.space.methods["lora"].max_rank
        found = {}
        if problem.has_baseline:
            found = baseline_policies(problem.context, learning_rate=low, max_rank=cap)
        n_rates = max(1, min(_MAX_RATES, (room - 1) // (len(found) + len(problem.user_plans) + 1)))
        queue: list[tuple[Arm, Policy | Plan]] = []
        for rate in spread(low, high, n_rates):
            queue += [
                (Arm(kind="baseline", label=name), replace(own, learning_rate=rate))
                for name, own in found.items()
            ]
        for arm, plan in problem.user_plans:
            queue += [(arm, replace(plan, learning_rate=rate)) for rate in self._given_rates(plan, n_rates)]
        for rate in dict.fromkeys(spread(*problem.head_rates, n_rates)):
            queue.append((problem.without_adapters, Policy(method=HEAD, learning_rate=rate)))
        if "lora" in problem.space.methods:
            n_greedy = max(1, min(n_rates - 1, room - len(queue)))
            greedy = Policy(method="lora", exponent=1.0, max_rank=cap, learning_rate=spread(low, high, 1)[0])
            arm = Arm(kind="greedy", label=f"greedy by {problem.spec.search.score}")
            queue += [(arm, greedy)] * n_greedy
        for policy in _usual_policies(problem.space, max_rank=cap):
            if len(queue) + n_rates <= room:
                rates = spread(*learning_rates(problem.space, policy.method, methods), n_rates)
                arm = replace(policy.arm, kind="usual")
                queue += [(arm, replace(policy, learning_rate=rate)) for rate in rates]
        return queue[: problem.first_trials]

    def _given_rates(self, plan: Plan, n_rates: int) -> tuple[float, ...]:
        """Rates around the plan's own, or over its method's range where it has none."""
        if plan.learning_rate > 0:
            return tuple(plan.learning_rate * factor for factor in (1.0, 0.5, 2.0)[:n_rates])
        return spread(*rate_range(plan, self.problem), n_rates)

    def _ask(self, study: optuna.Study, queue: Enqueued) -> tuple[Trial, Proposal]:
        number = len(self.proposals)
        source = "enqueued" if number < len(queue) else self._source(number - len(queue))
        refined = self._refined(number) if source == "refined" else None
        if source == "refined" and refined is None:
            source = "sampler"
        study.sampler = self._sampler(source, number)
        policy: Policy | None
        if number < len(queue):
            trial, arm, plan, policy = self._enqueue(study, *queue[number])
        elif refined is not None:
            trial, policy = study.ask(), None
            arm, plan = refined
        else:
            trial = study.ask()
            policy = suggest(trial, self.problem.space, self.problem.context.methods)
            arm, plan = policy.arm, self._plan(policy)
        return trial, self._note(
            Proposal(trial=trial.number, arm=arm, source=source, plan=plan), policy, trial
        )

    def _enqueue(
        self, study: optuna.Study, arm: Arm, asked: Policy | Plan
    ) -> tuple[Trial, Arm, Plan, Policy | None]:
        """A trial with the values of a policy, so that the sampler learns from it; of a plan it has none."""
        if isinstance(asked, Plan):
            return study.ask(), arm, asked, None
        space, methods = self.problem.space, self.problem.context.methods
        if arm.kind == "greedy":
            n_before = sum(proposal.arm == arm for proposal in self.proposals)
            rate = self._baseline_rate(place=n_before, default=asked.learning_rate)
            asked = replace(asked, learning_rate=rate)
        parameters = parameters_of(asked, space, methods)
        study.enqueue_trial(parameters or {})
        trial = study.ask()
        if parameters is not None:
            suggest(trial, space, methods)  # registers the enqueued values
        return trial, arm, self._plan(asked), asked

    def _note(self, proposal: Proposal, policy: Policy | None, trial: Trial) -> Proposal:
        self.proposals.append(proposal)
        self.policies.append(policy)
        self.ledger.arms.setdefault(proposal.plan, proposal.arm)
        for name, value in _facts(proposal).items():
            trial.set_user_attr(name, value)
        return proposal

    def _refined(self, number: int) -> tuple[Arm, Plan] | None:
        """A small step from the best plan so far that is no baseline: its rate, then its ranks, in turn."""
        told = [
            m
            for m in self._told().values()
            if m.plan.adapters and not is_baseline(m.plan, self.problem, self.ledger)
        ]
        finished = [m for m in told if m.loss is not None]
        if not finished:
            return None
        plan = min(finished, key=by_loss).plan
        arm, known = self.ledger.arms[plan], set(self._told())
        rate = next_rate(self._rates_of(plan), rate_range(plan, self.problem))
        nudged = None if rate is None else replace(plan, learning_rate=rate)
        moved = moved_ranks(plan, self.problem.context, known=known)
        n_before = sum(proposal.source == "refined" for proposal in self.proposals)
        steps = [nudged, moved] if n_before % 2 == 0 else [moved, nudged]
        return next(((arm, step) for step in steps if step is not None and step not in known), None)

    def _rates_of(self, plan: Plan) -> dict[float, float]:
        """Learning rates tried with the same adapters, and what they cost."""
        same = [m for m in self._told().values() if m.plan.adapters == plan.adapters]
        return {m.plan.learning_rate: math.inf if m.loss is None else m.loss for m in same}

    def _told(self) -> dict[Plan, Measurement]:
        """What is measured at the first rung."""
        fidelity = self.problem.schedule.rung(0, seed=self.problem.seed)
        return {plan: m for (plan, own), m in self.ledger.measured.items() if own == fidelity}

    def _even_out(self, seen: dict[Plan, Measurement], fidelity: Fidelity) -> dict[Plan, Measurement]:
        """More learning rates for the baseline, where some arm had more than it, each next to the best."""
        rates: dict[Arm, set[float]] = {}
        for plan in seen:
            rates.setdefault(self.ledger.arms[plan], set()).add(plan.learning_rate)
        most = max((len(own) for arm, own in rates.items() if not self._is_fixed(arm)), default=0)
        found: dict[Plan, Measurement] = {}
        while True:
            own = [
                m
                for m in (seen | found).values()
                if is_baseline(m.plan, self.problem, self.ledger) and m.loss is not None
            ]
            if not own or not self.problem.has_baseline or not self.has_time():
                return found
            best = min(own, key=by_loss).plan
            tried = self._rates_of(best)
            rate = next_rate(tried, rate_range(best, self.problem))
            if rate is None or len(tried) >= min(most, _MAX_EVENED):
                return found
            plan = replace(best, learning_rate=rate)
            self.note_beside(self.ledger.arms[best], plan, source="evened")
            (found[plan],) = self.ledger.measure_all([(plan, fidelity)])
            self.tell_beside(plan, found[plan])

    def _is_fixed(self, arm: Arm) -> bool:
        """Whether an arm is one that the sampler has no hand in."""
        return arm.kind in ("head", "baseline", "greedy")

    def note_beside(self, arm: Arm, plan: Plan, *, source: str) -> None:
        """Count a plan among the proposals that stands beside one of them and is not the sampler's."""
        self.proposals.append(Proposal(trial=len(self.proposals), arm=arm, source=source, plan=plan))
        self.policies.append(None)
        self.ledger.arms.setdefault(plan, arm)

    def tell_beside(self, plan: Plan, result: Measurement) -> None:
        """Put such a plan's measurement into the study, where nothing is asked any more."""
        assert self._study is not None, "these plans come after the proposals"
        proposal = next(own for own in reversed(self.proposals) if own.plan == plan)
        self._study.add_trial(
            create_trial(
                value=result.loss,
                state=TrialState.FAIL if result.loss is None else TrialState.COMPLETE,
                user_attrs=_facts(proposal),
            )
        )

    def _baseline_rate(self, *, place: int, default: float) -> float:
        """The baseline's best rate so far, or its second: the greedy plan differs from it in ranks alone."""
        told = [m for m in self.ledger.measured.values() if is_baseline(m.plan, self.problem, self.ledger)]
        rates = dict.fromkeys(m.plan.learning_rate for m in sorted(told, key=by_loss) if m.loss is not None)
        return [*rates, default][min(place, len(rates))]

    def _plan(self, policy: Policy) -> Plan:
        if policy.method == HEAD:
            return Plan(adapters=(), learning_rate=policy.learning_rate, trainable_params=0)
        return plan_of(policy, self.problem.context)

    def _source(self, index: int) -> str:
        """Random proposals are spread evenly among the sampled ones; they show what the sampler adds.

        By its place alone, so that an extended run proposes the same again.
        """
        if self.problem.spec.search.strategy == "random":
            return "random"
        if index % _REFINED_EVERY == _REFINED_EVERY - 1:
            return "refined"
        share = self.problem.space.random_share
        index -= index // _REFINED_EVERY  # its place among those that are drawn
        is_random = math.floor((index + 1) * share + 0.5) > math.floor(index * share + 0.5)
        return "random" if is_random else "sampler"

    def _sampler(self, source: str, number: int) -> BaseSampler:
        """A sampler for one trial, so that no point is repeated."""
        kind = self.problem.spec.search.sampler if source == "sampler" else "random"
        return make_sampler(kind, seed=self.problem.seed, number=number, n_startup=_N_STARTUP)

    def _tell(self, study: optuna.Study, trial: Trial, result: Measurement) -> None:
        """Tell the loss; a diverged rate is told as twice the worst, so that the sampler shuns it."""
        for name, value in excess(self.problem, self.ledger, result).items():
            trial.set_constraint(name, value)
        if result.loss is not None:
            study.tell(trial, result.loss)
        elif result.status is Status.DIVERGED:
            study.tell(trial, 2 * self.ledger.worst_loss())
        else:
            study.tell(trial, state=TrialState.FAIL)


def n_proposals(problem: SearchProblem) -> int:
    """How many plans the first rung measures."""
    asked = problem.spec.search
    return n_first(problem.schedule, trials=asked.trials, strategy=asked.strategy)


def rate_range(plan: Plan, problem: SearchProblem) -> tuple[float, float]:
    """The learning rates that may be tried with a plan: those of its first method, or of the head alone."""
    if not plan.adapters:
        return problem.head_rates
    lead = next(
        (own.method for own in plan.adapters if own.rate_factor == 1.0), plan.adapters[0].method
    )  # the part of a mix whose rate the plan's is
    return learning_rates(problem.space, lead, problem.context.methods)


def _usual_policies(space: Space, *, max_rank: int | None) -> list[Policy]:
    """Arms that people try first, where the space has them."""
    usual = [
        Policy(method="ia3", learning_rate=1.0),
        Policy(method="lora", placement="mlp", max_rank=max_rank, learning_rate=1.0),
        Policy(method="bitfit", learning_rate=1.0),
        Policy(method="ln_tuning", learning_rate=1.0),
    ]
    return [policy for policy in usual if policy.method in space.methods]


def _facts(proposal: Proposal) -> dict[str, str | int]:
    """What the study remembers of a proposal."""
    plan = proposal.plan
    return {
        "arm": str(proposal.arm),
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
