"""What a search takes the labels of its data for, known before it starts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from autopeft.pipeline.prepare import Prepared

_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?")
_AS_NUMBERS = "pass --set data.label_kind=number to learn their values"


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """The task, the kind of its labels as `Target.kind` has it, and the metric.

    `label_names` are in the order of the model's outputs; () where labels are numbers or texts.
    `label_range` is the lowest and the highest number in the train split, None for other kinds. `note` says
    how to learn the values of labels that look like numbers and are taken as classes; empty for others.
    """

    name: str
    kind: str
    label_names: tuple[str, ...]
    label_range: tuple[float, float] | None
    metric: str
    note: str = ""


def task_facts(prepared: Prepared) -> TaskFacts:
    """The facts of the prepared task and data."""
    target, task = prepared.data.target, prepared.task
    is_number = target.kind == "number"
    labels = prepared.data.train.labels
    names = () if is_number else target.names
    may_mislead = target.kind == "class" and prepared.spec.data.label_kind is None
    return TaskFacts(
        name=task.name,
        kind=target.kind,
        label_names=names,
        label_range=(min(labels), max(labels)) if is_number else None,
        metric=task.metric,
        note=_note(names) if may_mislead else "",
    )


def _note(names: tuple[str, ...]) -> str:
    """What to do where classes look like numbers, if their numbers may be values."""
    if not all(_NUMBER.fullmatch(name) for name in names):
        return ""
    if any("," in name for name in names):
        return f"the labels look like numbers with a comma: write them with a point and {_AS_NUMBERS}"
    values = sorted(map(float, names))
    n_names = len(names)
    # Two whole numbers are yes and no, in whatever code; from 0 without gaps they are the places in a list.
    if all(map(float.is_integer, values)) and (n_names == 2 or values == [*map(float, range(n_names))]):
        return ""
    return f"the labels look like numbers and are taken as classes; {_AS_NUMBERS}"
