"""Which source proposes a trial that is not in the queue, and with which sampler."""

from __future__ import annotations

import math

from optuna.samplers import BaseSampler

from autopeft.engine.problem import SearchProblem
from autopeft.engine.samplers import make_sampler

_N_STARTUP = 8  # finished trials before TPE models anything, those of the queue among them; chosen by hand
_REFINED_EVERY = 6  # one of so many sampled proposals is a small step from the best plan; chosen by hand


def source_of(index: int, problem: SearchProblem) -> str:
    """`refined`, `random` or `sampler` for the proposal at this index after the queue, from 0.

    The random ones are spread evenly; they show what the sampler adds. The index alone decides, so that an
    extended run proposes the same plans again.
    """
    if problem.spec.search.strategy == "random":
        return "random"
    if index % _REFINED_EVERY == _REFINED_EVERY - 1:
        return "refined"
    share = problem.space.random_share
    index -= index // _REFINED_EVERY  # the index among the proposals that are drawn
    is_random = math.floor((index + 1) * share + 0.5) > math.floor(index * share + 0.5)
    return "random" if is_random else "sampler"


def sampler_for(source: str, problem: SearchProblem, *, number: int) -> BaseSampler:
    """The sampler of one trial: the user's choice for the source `sampler`, else the random one."""
    kind = problem.spec.search.sampler if source == "sampler" else "random"
    return make_sampler(kind, seed=problem.seed, number=number, n_startup=_N_STARTUP)
