"""`analyze`: score the sensitivity of every target module, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autopeft import report
from autopeft.plugins import discover
from autopeft.setup.build import prepare, with_demo_settings
from autopeft.setup.look import NAMED, InMemory
from autopeft.setup.scoring import routing, sensitivity
from autopeft.store import refuse_files, write_text
from autopeft.types import RunSpec, Sensitivity, Target, TargetScores


@dataclass(frozen=True, kw_only=True, repr=False)
class Analysis:
    """Scores of a base model's target modules on a dataset with `n_train` examples in its train split.

    `routing` has the tokens of each expert, by the module that holds a layer's experts.
    """

    spec: RunSpec
    base_model: str
    data: str
    n_train: int
    targets: tuple[Target, ...]
    sensitivity: Sensitivity
    routing: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    files: tuple[str, ...] = ()  # that were written

    @property
    def scores(self) -> tuple[TargetScores, ...]:
        """The scores in the order in which they were requested."""
        return self.sensitivity.scores

    def __repr__(self) -> str:
        scores = ", ".join(score.name for score in self.scores)
        return f"Analysis({scores} of {len(self.targets)} target modules of {self.base_model})"


def analyze(
    spec: RunSpec, *, scores: Sequence[str], max_examples: int | None = None, memory: InMemory = NAMED
) -> Analysis:
    """Score every target module on a seeded sample of the train split.

    By default, the pass costs at most 5 % of a full run. `sensitivity.csv` is written into the folder
    `spec.output.out`, which must be empty or absent. The other arguments and errors are those of a search.
    """
    installed = discover("autopeft.sensitivity")
    names = [installed[name].name for name in scores]
    out = spec.output.out
    if out is not None:
        refuse_files(Path(out))
    spec = with_demo_settings(spec)
    prepared = prepare(spec, memory=memory)
    targets = prepared.base.chosen
    scored = sensitivity(prepared, names, max_examples=max_examples)
    files = () if out is None else (str(Path(out) / "sensitivity.csv"),)
    for file in files:
        write_text(file, report.sensitivity_csv(targets, scored.scores))
    return Analysis(
        spec=spec,
        base_model=prepared.base.name,
        data=prepared.data.name,
        n_train=len(prepared.bench.splits["train"].labels),
        targets=targets,
        sensitivity=scored,
        routing=routing(prepared, max_examples=max_examples),
        files=files,
    )
