"""What plans are compared on: a margin that means something, enough examples, and the groups of these."""

from __future__ import annotations

from autopeft.errors import DataError, SpecError
from autopeft.pipeline.prepare import Prepared

_LARGEST_MARGIN = 0.5  # of a share; within it a coin is as good as a perfect plan; chosen by hand
_LEAST_EXAMPLES = 2  # from which the standard error of a difference is computed


def check_comparison(prepared: Prepared) -> None:
    """Refuse a margin and splits with which no plans can be compared.

    Raises SpecError for a margin of half of a share or more, which is meant in points, and DataError for a
    split of one example, or of one group of examples to confirm on, of which no interval is made.
    """
    margin, task = prepared.spec.confirm.margin, prepared.task
    if margin is not None and task.is_share and margin >= _LARGEST_MARGIN:
        raise SpecError(
            f"The margin is {margin:g}, but {task.metric} lies between 0 and 1 and 0.01 is one point of it; "
            f"did you mean --margin {margin / 100:g}?"
        )
    remedies = {"search": "add train rows"}
    if prepared.spec.confirm.fidelity != "none":
        remedies["confirm"] = (
            "give a larger validation file, leave it out so that the split is cut from train, or set "
            "--confirm none"
        )
    for name, remedy in remedies.items():
        n_examples = len(prepared.bench.splits[name].labels)
        if n_examples < _LEAST_EXAMPLES:
            raise DataError(
                f"The {name} split has {n_examples} example, and comparing plans needs at least "
                f"{_LEAST_EXAMPLES}; {remedy}."
            )
    groups = prepared.data.confirm.groups
    if groups and len(set(groups)) == 1 and "confirm" in remedies:
        raise DataError(
            f"The {len(groups)} examples of the confirm split are of 1 group, and comparing plans needs at "
            f"least {_LEAST_EXAMPLES}; name a finer data.group_column, give a validation file with more "
            "groups, or set --confirm none."
        )


def groups_of(prepared: Prepared) -> dict[str, tuple[int, ...]]:
    """Split -> the group of each example that is evaluated; without splits whose examples count each.

    Those of one group do, too: nothing tells how much groups differ.
    """
    found = dict[str, tuple[int, ...]]()
    for split in (prepared.data.confirm, prepared.data.test):
        n_most = prepared.spec.data.max_eval_examples or len(split.groups)
        rows = prepared.bench.splits[split.name].subset(n_most) if split.groups else []
        groups = tuple(split.groups[row] for row in rows)
        if 1 < len(set(groups)) < len(groups):
            found[split.name] = groups
    return found
