"""What a cell is beside its rows: `cell.json`, from which a search can be replayed without the model.

Target modules, scores, budget and sizes are those that a search of the cell would see. The adapters of an arm
are written as runs of equal adapters, in the order of the plan.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cells import Candidate, Cell
from pydantic import ValidationError
from table import TableError

from autopeft.space import AllocationContext
from autopeft.types import (
    Adapter,
    Budget,
    MetricFacts,
    OptionPairs,
    Plan,
    Target,
    from_json,
    to_json,
)

if TYPE_CHECKING:
    from autopeft.setup.build import Prepared

FILE = "cell.json"


@dataclass(frozen=True, kw_only=True)
class AdapterRun:
    """Adapters that are equal but for their target; `targets` are indices into those of the description."""

    method: str
    rank: int
    scale: float
    options: OptionPairs
    rate_factor: float
    targets: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ArmPlans:
    """The plans of an arm: its adapters, and the learning rate at each position."""

    arm: str
    trainable_params: int
    adapters: tuple[AdapterRun, ...]
    learning_rates: dict[float, float]


@dataclass(frozen=True, kw_only=True)
class Description:
    """A cell as a search sees it.

    `examples` counts those of train, and those that were evaluated of search, confirm and test. `scores` maps
    the score that orders target modules to one value for each target module.
    """

    cell: Cell
    budget: Budget
    hidden_size: int
    metric: MetricFacts
    head_rates: tuple[float, float]
    examples: dict[str, int]
    targets: tuple[Target, ...]
    scores: dict[str, tuple[float, ...]]
    arms: tuple[ArmPlans, ...]

    def plans(self) -> dict[tuple[str, float], Plan]:
        """Every plan of the cell by arm and position."""
        return {
            (arm.arm, position): Plan(
                adapters=_adapters(arm.adapters, self.targets),
                learning_rate=rate,
                trainable_params=arm.trainable_params,
            )
            for arm in self.arms
            for position, rate in arm.learning_rates.items()
        }


def describe(
    cell: Cell, prepared: Prepared, context: AllocationContext, candidates: Iterable[Candidate]
) -> Description:
    """The description of a cell whose model is loaded; `context` holds the scores by gradient."""
    metric = prepared.task.metric
    sizes = {split: len(encoded.labels) for split, encoded in prepared.bench.splits.items()}
    most = {"search": cell.search_examples, "confirm": cell.confirm_examples, "test": cell.test_examples}
    return Description(
        cell=cell,
        budget=prepared.budget,
        hidden_size=prepared.base.hidden_size,
        metric=MetricFacts(**{each.name: getattr(metric, each.name) for each in fields(MetricFacts)}),
        head_rates=prepared.bench.head_rates.alone(),
        examples={split: min(size, most.get(split, size)) for split, size in sizes.items()},
        targets=context.targets,
        scores={"gradient": tuple(context.scores[target.name] for target in context.targets)},
        arms=arm_plans(candidates, context.targets),
    )


def arm_plans(candidates: Iterable[Candidate], targets: tuple[Target, ...]) -> tuple[ArmPlans, ...]:
    """The plans by arm; all of one arm have the same adapters."""
    by_arm: dict[str, dict[float, Plan]] = {}
    for candidate in candidates:
        by_arm.setdefault(candidate.arm, {})[candidate.position] = candidate.plan
    arms = []
    for arm, plans in by_arm.items():
        first, *others = plans.values()
        assert all(plan.adapters == first.adapters for plan in others), f"{arm} has several sets of adapters"
        arms.append(
            ArmPlans(
                arm=arm,
                trainable_params=first.trainable_params,
                adapters=tuple(_runs(first.adapters, [target.name for target in targets])),
                learning_rates={position: plan.learning_rate for position, plan in sorted(plans.items())},
            )
        )
    return tuple(arms)


def _runs(adapters: tuple[Adapter, ...], names: list[str]) -> Iterable[AdapterRun]:
    def without_target(adapter: Adapter) -> dict[str, Any]:
        return {name: value for name, value in vars(adapter).items() if name != "target"}

    for shared, run in groupby(adapters, key=without_target):
        yield AdapterRun(**shared, targets=tuple(names.index(adapter.target) for adapter in run))


def _adapters(runs: tuple[AdapterRun, ...], targets: tuple[Target, ...]) -> tuple[Adapter, ...]:
    return tuple(
        Adapter(
            method=run.method,
            target=targets[index].name,
            rank=run.rank,
            scale=run.scale,
            options=run.options,
            rate_factor=run.rate_factor,
        )
        for run in runs
        for index in run.targets
    )


def write(folder: Path, description: Description) -> None:
    """Write `cell.json`: one line for each key, and in lists of objects for each object."""
    entries = []
    for key, value in to_json(description).items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            objects = ",\n  ".join(json.dumps(item) for item in value)
            entries.append(f'"{key}": [\n  {objects}\n ]')
        else:
            entries.append(f'"{key}": {json.dumps(value)}')
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text("{\n " + ",\n ".join(entries) + "\n}\n", encoding="utf-8")


def read(folder: Path) -> Description:
    """The description in a cell's folder; raises TableError where it is missing or damaged."""
    path = folder / FILE
    if not path.exists():
        raise TableError(f"There is no {FILE} in the folder {folder.name}; measure.py --describe writes it.")
    try:
        return from_json(Description, json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, ValidationError) as error:
        raise TableError(f"{folder.name}/{FILE} is damaged: {str(error).splitlines()[0]}.") from error
