"""How long short and full runs are, and what they cost in R, the cost of one full run of the baseline."""

from __future__ import annotations

from dataclasses import dataclass

from autopeft.train.rates import branch_step, short_steps
from autopeft.types import EvaluatedSplit, Fidelity

_SHORT_EXAMPLES = 384  # of the search split that rank short runs; heuristic
# Cost of evaluating an example, relative to training on it: training adds a backward pass, which costs about
# as much as the forward pass, since most weights are frozen. It is the price until runs are timed.
EVAL_COST = 0.5
_FEWEST_PROPOSED, _MOST_PROPOSED = 4, 12  # trials of the sampler; research/2026-12-02-proposals.md
_FEWEST_TRIALS = 9  # also where a small budget leaves few listed plans; heuristic


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Steps of a full run, examples of a step and of each split; `n_test` is 0 without a test split."""

    full_steps: int
    batch_size: int
    n_search: int
    n_confirm: int
    n_test: int
    goes_on: bool = True  # a full run continues its short run, and does not repeat these steps

    @property
    def short_steps(self) -> int:
        """Steps of a short run."""
        return short_steps(self.full_steps)

    @property
    def kept_steps(self) -> int:
        """Steps of a short run that its full run does not repeat."""
        return branch_step(self.short_steps) if self.goes_on else 0

    def short(self, *, seed: int) -> Fidelity:
        """The fidelity of a short run, which is ranked on the search split."""
        return self._fidelity("search", self.short_steps, min(self.n_search, _SHORT_EXAMPLES), seed)

    def full(self, *, seed: int) -> Fidelity:
        """The fidelity of a full run, which is judged on the confirm split."""
        return self._fidelity("confirm", self.full_steps, self.n_confirm, seed)

    def test(self, *, seed: int) -> Fidelity:
        """The fidelity of a full run's weights on the test split; nothing is trained."""
        return self._fidelity("test", self.full_steps, self.n_test, seed)

    def _fidelity(self, split: EvaluatedSplit, steps: int, eval_examples: int, seed: int) -> Fidelity:
        n_rows = steps * self.batch_size
        return Fidelity(
            split=split, train_steps=steps, train_examples=n_rows, eval_examples=eval_examples, seed=seed
        )

    def n_trials(self, n_listed: int) -> int:
        """Trials of a search of normal effort: the sampler proposes as many as cost one full run."""
        n_short_runs = round(1 / self.cost(self.short(seed=0)))
        n_proposed = min(max(n_short_runs, _FEWEST_PROPOSED), _MOST_PROPOSED)
        return max(n_listed + n_proposed, _FEWEST_TRIALS)

    @property
    def step_cost(self) -> float:
        """Cost of a training step in R."""
        return 1 / (self.full_steps + EVAL_COST * self.n_confirm / self.batch_size)

    def cost(self, fidelity: Fidelity) -> float:
        """Cost of a run in R, counted in steps and examples."""
        steps = 0 if fidelity.split == "test" else fidelity.train_steps
        return (steps + EVAL_COST * fidelity.eval_examples / self.batch_size) * self.step_cost
