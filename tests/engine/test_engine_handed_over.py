"""Which plan `engine.search` hands over once the confirmation has spoken."""

from __future__ import annotations

import optuna
import pytest
from toys.engine import is_baseline, levels, method_of, problem, run

from autopeft.engine.judge import recommended
from autopeft.records import (
    Adapter,
    Confirmation,
    Fidelity,
    Measurement,
    Plan,
    Status,
)

optuna.logging.set_verbosity(optuna.logging.ERROR)


def luck_of_the_search(plan: Plan, fidelity: Fidelity) -> float | None:
    """IA3 shines on the search split alone."""
    return levels(ia3=0.9 if fidelity.split == "search" else 0.1)(plan, fidelity)


def by_name(confirmations: tuple[Confirmation, ...]) -> dict[str, Confirmation]:
    return {confirmation.name: confirmation for confirmation in confirmations}


def test_luck_on_the_search_split_is_found_out_and_the_baseline_is_handed_over() -> None:
    outcome = run(luck_of_the_search).outcome
    assert outcome.incumbent is not None and method_of(outcome.incumbent) == "ia3"
    assert outcome.best == outcome.baseline
    assert outcome.verdict.label == "default kept"
    assert outcome.verdict.sentence.startswith("The baseline is kept. The plan compared with it is worse")
    assert (outcome.verdict.mean_difference or 0.0) < 0
    named = by_name(outcome.confirmations)
    assert named["incumbent"].plan == outcome.incumbent
    assert named["best"].plan == named["baseline"].plan == outcome.baseline


@pytest.mark.parametrize(
    ("share", "label"), [(1.0, "default kept"), (0.95, "default kept"), (0.5, "equivalent")]
)
@pytest.mark.parametrize("n", [5000, 200])  # of 200 examples nothing is proven, but the means are equal
def test_as_good_with_as_many_parameters_is_no_reason_to_leave_the_default(
    share: float, label: str, n: int
) -> None:
    incumbent, baseline = (
        Plan(adapters=(Adapter(method="lora", site=site, rank=1),), learning_rate=1e-3, trainable_params=n)
        for site, n in (("h.0.q", round(1000 * share)), ("h.0.v", 1000))
    )
    right = [1.0] * (n * 4 // 5) + [0.0] * (n // 5)
    confirmed = {
        plan: [
            Measurement(
                plan=plan,
                fidelity=Fidelity(
                    split="confirm", train_steps=9, train_examples=9, eval_examples=n, seed=seed
                ),
                status=Status.COMPLETE,
                metric=0.8,
                loss=0.5,
                example_scores=tuple(right[moved:] + right[:moved]),
            )
            for seed in (1, 2)
        ]
        for plan, moved in ((incumbent, 10), (baseline, 0))
    }
    best = recommended(problem(seeds=2), confirmed, incumbent=incumbent, baseline=baseline)
    assert (best == baseline) == (label == "default kept")


def test_a_leading_baseline_that_never_finishes_has_no_score() -> None:
    def truth(plan: Plan, fidelity: Fidelity) -> float | None:
        return None if fidelity.split == "confirm" else 0.9 if is_baseline(plan) else 0.2

    outcome = run(truth, seeds=3).outcome
    assert outcome.best == outcome.baseline and outcome.verdict.label == "default kept"
    assert outcome.verdict.sentence.endswith("it has no score and no weights.")
    assert outcome.best not in {c.plan for c in (*outcome.confirmations, *outcome.test)}
    assert any("baseline diverged on its only seed at" in text for text in outcome.sentences)
