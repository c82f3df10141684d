"""A table of the benchmark without a model: a fake truth says what each run gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import description
import numpy as np
from cells import AT_MIDDLE_TOO, POSITIONS, Candidate, Cell, candidates
from measure import Table
from surrogate import Surrogate
from table import FULL_SEEDS, Results

from autopeft.types import Budget
from toys.engine import ROOMY, SCORES, TARGETS, context
from toys.metrics import ACCURACY

CELL = Cell(model=None, data="toy", budget=str(ROOMY), rungs=(10, 20, 40), full=80, batch_size=4)
EXAMPLES = {"train": 400, "search": 100, "confirm": 100, "test": 200}
HEAD_RATES = (3e-3, 3e-1)
STEP_SECONDS, EXAMPLE_SECONDS = 0.5, 0.01
# Candidate, split, steps and seed -> loss and share of examples that are right; None where the run diverged.
Truth = Callable[[Candidate, str, int, int], tuple[float, float] | None]


def right(share: float, n: int) -> tuple[float, ...]:
    """Scores of which the first ones are 1, as many as the share says."""
    return tuple((np.arange(n) < round(share * n)).astype(float).tolist())


def toy_candidates(arms: Iterable[str] | None = None, *, max_params: int = ROOMY) -> list[Candidate]:
    """The plans of the toy cell, or of some arms of it; a baseline at the four rates of a sweep."""
    made = list(candidates(context(max_params), head_rates=HEAD_RATES))
    swept = [c for c in made if c.arm not in AT_MIDDLE_TOO or c.position in POSITIONS]
    return [candidate for candidate in swept if arms is None or candidate.arm in arms]


def write_table(folder: Path, truth: Truth, plans: Iterable[Candidate], **changes: Any) -> Path:
    """Write rows and description of a cell by the benchmark's own writers; returns its folder.

    `changes` are to fields of the description.
    """
    plans, table = list(plans), Table(folder)
    rungs = [("search", steps, 0) for steps in CELL.rungs]
    jobs = [rungs, *([(split, CELL.full, seed) for split in ("confirm", "test")] for seed in FULL_SEEDS)]
    for candidate in plans:
        for job in jobs:
            rows, before = [], 0
            for split, steps, seed in job:
                seen = truth(candidate, split, steps, seed)
                n_new = 0 if split == "test" else steps - (before if split == "search" else 0)
                before = steps
                rows.append(_row(candidate, (split, steps, seed), seen, n_new))
                if seen is None:
                    break
            table.add(rows)
    described = description.Description(
        cell=CELL,
        budget=Budget(max_trainable_params=ROOMY, base_params=100 * ROOMY, requested=str(ROOMY)),
        hidden_size=384,
        metric=ACCURACY,
        head_rates=HEAD_RATES,
        examples=EXAMPLES,
        targets=TARGETS,
        scores={name: tuple(SCORES.values()) for name in ("gradient", "parameters", "random")},
        arms=description.arm_plans(plans, changes.get("targets", TARGETS)),
    )
    description.write(folder, replace(described, **changes))
    return folder


def _row(
    candidate: Candidate, fidelity: tuple[str, int, int], seen: tuple[float, float] | None, n_new: int
) -> tuple[dict[str, Any], tuple[float, ...]]:
    split, steps, seed = fidelity
    loss, share = seen or (None, 0.0)
    scores = right(share, EXAMPLES[split]) if seen else ()
    row = {
        "arm": candidate.arm,
        "position": candidate.position,
        "plan": candidate.plan.digest,
        "trainable_params": candidate.plan.trainable_params,
        "learning_rate": candidate.plan.learning_rate,
        "split": split,
        "steps": steps,
        "seed": seed,
        "status": "COMPLETE" if seen else "DIVERGED",
        "loss": "" if loss is None else f"{loss:.7g}",
        "metric": f"{np.mean(scores):.7g}" if seen else "",
        "trained_steps": n_new if seen else 0,
        "train_seconds": n_new * STEP_SECONDS,
        "eval_examples": EXAMPLES[split],
        "eval_seconds": EXAMPLES[split] * EXAMPLE_SECONDS,
        "peak_bytes": 1000,
        "error": "" if seen else "DivergedError: the loss is NaN",
    }
    return row, scores


def toy_surrogate(folder: Path, truth: Truth, plans: Iterable[Candidate], **changes: Any) -> Surrogate:
    """The surrogate of a toy cell."""
    write_table(folder, truth, plans, **changes)
    return Surrogate(Results.read(folder), description.read(folder))
