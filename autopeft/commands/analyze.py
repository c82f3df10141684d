"""`analyze` and `suggest`: score the sensitivity of every site and suggest a plan, without training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autopeft import report, space
from autopeft.errors import SpecError
from autopeft.extension import discover
from autopeft.records import (
    Budget,
    PlanDocument,
    RunSpec,
    Sensitivity,
    Site,
    SiteScores,
    search_command,
    train_command,
)
from autopeft.run.best import plan_document
from autopeft.run.prepare import NAMED, InMemory, Prepared, prepare, with_demo_settings
from autopeft.run.scoring import require_some, sensitivity
from autopeft.run.search_problem import fit_to_budget
from autopeft.space import BASELINE_METHOD, Policy
from autopeft.store import refuse_files, write_plan, write_text


@dataclass(frozen=True, kw_only=True, repr=False)
class Analysis:
    """Scores of a base model's sites on a dataset, and the untested plan that the first score suggests.

    `n_train` counts the examples of the train split. `files` is empty if nothing was written.
    """

    spec: RunSpec
    base_model: str
    data: str
    n_train: int
    sites: tuple[Site, ...]
    sensitivity: Sensitivity
    budget: Budget
    suggestion: PlanDocument
    files: tuple[str, ...] = ()

    @property
    def scores(self) -> tuple[SiteScores, ...]:
        """The scores in the order in which they were requested."""
        return self.sensitivity.scores

    @property
    def search_command(self) -> str:
        """A command (or Python code, for objects in memory) that starts a search with the same settings."""
        return search_command(self.spec)

    def __repr__(self) -> str:
        scores = ", ".join(score.name for score in self.scores)
        plan = self.suggestion.plan
        return (
            f"Analysis({scores} of {len(self.sites)} sites of {self.base_model} · suggests "
            f"{plan.trainable_params:,} params on {len(plan.adapters)} sites)"
        )


def analyze(
    spec: RunSpec,
    *,
    scores: Sequence[str],
    explicit: frozenset[str] = frozenset(),
    max_examples: int | None = None,
    out: Path | None = None,
    memory: InMemory = NAMED,
) -> Analysis:
    """Score every site on a seeded sample of the train split, and allocate the budget by the first score.

    Args:
        spec: The settings of the run.
        scores: Names of scores, at least one; the first one decides the suggested plan.
        explicit: Dotted names of the settings that the user set, as for a search.
        max_examples: Upper limit on the examples to score; None allows 5 % of the cost of a full run.
        out: Folder for sensitivity.csv and suggestion.yaml, empty or absent; None writes nothing.
        memory: Model and dataset that were passed as objects, as for a search.

    Raises:
        SpecError: No score is named, or `max_examples` is no whole number or below 1.
        UnknownNameError: A score does not exist.
        RunDirError: `out` holds files already.
        BudgetError: The budget does not even pay for rank 1 at one site.
        AutopeftError: Data or model cannot be used, as for a search.
    """
    installed = discover("autopeft.sensitivity")
    names = [installed[name].name for name in dict.fromkeys(scores)]
    if not names:
        raise SpecError(f"No score is named; pass one or more of {', '.join(sorted(installed))}.")
    require_some(max_examples)
    if out is not None:
        refuse_files(out)
    spec = with_demo_settings(spec, explicit)
    prepared = prepare(spec, memory=memory)
    sites = prepared.base.sites
    site_names = [site.name for site in sites]
    plan_by_score(prepared, dict.fromkeys(site_names, 1.0))  # raises on an impossible budget before any work
    scored = sensitivity(prepared, names, max_examples=max_examples)
    by_site = dict(zip(site_names, scored.scores[0].values, strict=True))
    analysis = Analysis(
        spec=spec,
        base_model=prepared.base.name,
        data=prepared.data.name,
        n_train=len(prepared.bench.splits["train"].labels),
        sites=sites,
        sensitivity=scored,
        budget=prepared.budget,
        suggestion=plan_by_score(prepared, by_site),
    )
    if out is None:
        return analysis
    files = [out / name for name in ("sensitivity.csv", "suggestion.yaml")]
    write_text(files[0], report.sensitivity_csv(sites, analysis.scores))
    write_plan(files[1], analysis.suggestion, header=_comment(analysis))
    return replace(analysis, files=tuple(map(str, files)))


def plan_by_score(prepared: Prepared, scores: dict[str, float]) -> PlanDocument:
    """Allocate LoRA ranks by score per parameter, at the middle of LoRA's learning rates."""
    feasible, context = _lora_space(prepared)
    low, high = space.learning_rates(feasible, BASELINE_METHOD, prepared.methods)
    policy = Policy(
        method=BASELINE_METHOD,
        exponent=1.0,
        max_rank=feasible.methods[BASELINE_METHOD].max_rank,
        learning_rate=math.sqrt(low * high),
    )
    return plan_document(prepared, space.plan_of(policy, replace(context, scores=scores)))


def _lora_space(prepared: Prepared) -> tuple[space.Space, space.AllocationContext]:
    """Fit the part of the search space that has LoRA to the budget."""
    lora = space.load(prepared.spec.search.space, known_methods=prepared.methods, only=(BASELINE_METHOD,))
    return fit_to_budget(prepared, lora)


def _comment(analysis: Analysis) -> str:
    """Write the comment above the suggested plan: nothing tested it, and which commands would."""
    command = " ".join(analysis.search_command.split())  # a name may hold a line break
    test = train_command(Path("suggestion.yaml"), analysis.spec.model, analysis.spec.data)
    score = analysis.scores[0]
    basis = f"by the score {score.name} alone"
    if score.is_zero:
        basis = f"without a score, as {score.name} is 0 at every site"
    return (
        f"# UNTESTED: laid out {basis}; nothing was trained.\n"
        f"# LoRA, ranks by score per parameter, the middle of LoRA's learning rates.\n"
        f"# Test it:       {test}\n"
        f"# Look for more: {command}\n"
        "# scale is alpha / r; the counts are in parameters.\n"
    )
