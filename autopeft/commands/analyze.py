"""`analyze`: score the sensitivity of every target module, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autopeft import report
from autopeft.errors import SpecError
from autopeft.plugins import discover
from autopeft.run.prepare import NAMED, InMemory, prepare, with_demo_settings
from autopeft.run.scoring import sensitivity
from autopeft.store import refuse_files, write_text
from autopeft.types import RunSpec, Sensitivity, Target, TargetScores, search_command


@dataclass(frozen=True, kw_only=True, repr=False)
class Analysis:
    """Scores of a base model's target modules on a dataset with `n_train` examples in its train split."""

    spec: RunSpec
    base_model: str
    data: str
    n_train: int
    targets: tuple[Target, ...]
    sensitivity: Sensitivity
    files: tuple[str, ...] = ()  # that were written

    @property
    def scores(self) -> tuple[TargetScores, ...]:
        """The scores in the order in which they were requested."""
        return self.sensitivity.scores

    @property
    def search_command(self) -> str:
        """A command, or Python code for objects in memory, that starts a search with the same settings."""
        return search_command(self.spec)

    def __repr__(self) -> str:
        scores = ", ".join(score.name for score in self.scores)
        return f"Analysis({scores} of {len(self.targets)} target modules of {self.base_model})"


def analyze(
    spec: RunSpec,
    *,
    scores: Sequence[str],
    explicit: frozenset[str] = frozenset(),
    max_examples: int | None = None,
    out: Path | None = None,
    memory: InMemory = NAMED,
) -> Analysis:
    """Score every target module on a seeded sample of the train split.

    By default, the pass costs at most 5 % of a full run. `sensitivity.csv` is written into the folder `out`,
    which must be empty or absent. The other arguments and errors are those of a search.

    Raises:
        UnknownNameError: A score does not exist.
        RunDirError: `out` holds files already.
    """
    installed = discover("autopeft.sensitivity")
    if not scores:
        raise SpecError(f"There is no score; pass one or more of {', '.join(installed)}.")
    names = [installed[name].name for name in scores]
    if max_examples is not None and not (isinstance(max_examples, int) and max_examples >= 1):
        raise SpecError(f"--max-examples is {max_examples!r}; it should be a whole number of at least 1.")
    if out is not None:
        refuse_files(out)
    spec = with_demo_settings(spec, explicit)
    prepared = prepare(spec, memory=memory)
    targets = prepared.base.chosen
    scored = sensitivity(prepared, names, max_examples=max_examples)
    analysis = Analysis(
        spec=spec,
        base_model=prepared.base.name,
        data=prepared.data.name,
        n_train=len(prepared.bench.splits["train"].labels),
        targets=targets,
        sensitivity=scored,
    )
    if out is None:
        return analysis
    write_text(out / "sensitivity.csv", report.sensitivity_csv(targets, analysis.scores))
    return replace(analysis, files=(str(out / "sensitivity.csv"),))
