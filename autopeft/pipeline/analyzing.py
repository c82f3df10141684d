"""`analyze`: the sensitivity of every site and the plan that it suggests, without training anything."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autopeft import report, space
from autopeft.exports import refuse_files
from autopeft.extension import discover
from autopeft.pipeline.memory import NAMED, InMemory
from autopeft.pipeline.prepare import Prepared, lay_ground, parse_budget, prepare, with_demo_settings
from autopeft.pipeline.scoring import require_some, sensitivity
from autopeft.pipeline.searching import plan_document
from autopeft.records import Budget, PlanDocument, RunSpec, Sensitivity, Site, SiteScores, TaskSpec
from autopeft.space import Policy
from autopeft.store import write_plan, write_text

_GREEDY_METHOD = "lora"


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Scores of the sites of a base model on a dataset, and the untested plan that they suggest.

    `n_train` is how many examples there are to look at; `files` is empty where nothing was written.
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
        """The scores in the order asked."""
        return self.sensitivity.scores

    @property
    def search_command(self) -> str:
        """The command that searches a plan for the same model, data and budget."""
        return " ".join(["autopeft", "search", *_flags(self.spec)])


def analyze(
    spec: RunSpec,
    *,
    scores: Sequence[str],
    given: frozenset[str] = frozenset(),
    max_examples: int | None = None,
    out: Path | None = None,
    memory: InMemory = NAMED,
) -> Analysis:
    """Score every site on a seeded sample of the train split, and lay the budget out by the first score.

    Args:
        spec: What is asked.
        scores: Names of the scores, at least one; the first one makes the suggestion.
        given: Dotted names of the settings that the user gave, as for a search.
        max_examples: Examples to look at, at most; None is a twentieth of a full run.
        out: Folder for sensitivity.csv, heat.svg and suggestion.yaml, empty or absent; None writes nothing.
        memory: What was passed beside the settings, as for a search.

    Raises:
        UnknownNameError: No such score.
        RunDirError: `out` holds files already.
        BudgetError: Not even one site of rank 1 fits the budget.
        AutopeftError: As for a search, where data or model cannot be used.
    """
    known = discover("autopeft.sensitivity")
    names = [known[name].name for name in dict.fromkeys(scores)]
    require_some(max_examples)
    if out is not None:
        refuse_files(out)
    prepared = prepare(with_demo_settings(spec, given), memory=memory)
    parsed, _ = parse_budget(prepared)
    sites = prepared.base.sites
    suggest_plan(prepared, dict.fromkeys((site.name for site in sites), 1.0))  # refused before any work
    found = sensitivity(prepared, names, max_examples=max_examples)
    names_of_sites = [site.name for site in sites]
    lead = found.scores[0]
    by_site = dict(zip(names_of_sites, lead.values, strict=True))
    profiles = dict(zip(names_of_sites, lead.profiles, strict=True)) if lead.profiles else None
    analysis = Analysis(
        spec=spec,
        base_model=prepared.base.name,
        data=prepared.data.name,
        n_train=len(prepared.bench.splits["train"].labels),
        sites=sites,
        sensitivity=found,
        budget=parsed,
        suggestion=suggest_plan(prepared, by_site, profiles),
    )
    return analysis if out is None else replace(analysis, files=_write(analysis, out))


def suggest_plan(
    prepared: Prepared, scores: dict[str, float], profiles: Mapping[str, Sequence[float]] | None = None
) -> PlanDocument:
    """The greedy plan of a search: LoRA by score per parameter, at the middle of its learning rates.

    Where the score says what each further rank adds (`profiles`), ranks go to where a parameter adds most.

    Raises:
        BudgetError: Not even one site of rank 1 fits.
        SiteError: LoRA fits nowhere.
    """
    spec = prepared.spec
    asked = space.load(spec.search.space, known_methods=prepared.methods, only=(_GREEDY_METHOD,))
    parsed, available = parse_budget(prepared)
    feasible, ground = lay_ground(prepared, asked, parsed=parsed, available=available, scores=scores)
    low, high = space.learning_rates(feasible, _GREEDY_METHOD, prepared.methods)
    policy = Policy(
        method=_GREEDY_METHOD,
        exponent=1.0,
        ranks_by="spectrum" if profiles else "score",
        max_rank=feasible.methods[_GREEDY_METHOD].max_rank,
        learning_rate=math.sqrt(low * high),
    )
    return plan_document(prepared, space.plan_of(policy, replace(ground, profiles=profiles or {})))


def _write(analysis: Analysis, out: Path) -> tuple[str, ...]:
    """The three files; their names."""
    title = f"{analysis.base_model} on {analysis.data}"
    write_text(out / "sensitivity.csv", report.sensitivity_csv(analysis.sites, analysis.scores))
    write_text(out / "heat.svg", report.heat_svg(analysis.sites, analysis.scores, title=title))
    plan = out / "suggestion.yaml"
    write_plan(plan, analysis.suggestion)
    text = plan.read_text(encoding="utf-8")
    write_text(plan, _header(analysis) + text[text.index("schema_version:") :])
    return tuple(str(out / name) for name in ("sensitivity.csv", "heat.svg", "suggestion.yaml"))


def _header(analysis: Analysis) -> str:
    command = " ".join(analysis.search_command.split())  # a name may hold a line break
    by = "what each rank adds" if analysis.scores[0].profiles else "score"
    return (
        f"# UNTESTED: laid out by the score {analysis.scores[0].name} alone; nothing was trained.\n"
        f"# LoRA, ranks by {by} per parameter, the middle of LoRA's learning rates.\n"
        "# Test it:       autopeft train --plan suggestion.yaml\n"
        f"# Look for more: {command}\n"
        "# scale is alpha / r; the counts are in parameters.\n"
    )


def _flags(spec: RunSpec) -> list[str]:
    """What a search has to be told to ask the same."""
    values = [
        ("--model", spec.model.id),
        ("--quantize", spec.model.quantize if spec.model.quantize != "none" else None),
        ("--data", spec.data.source),
        *(("--text-column", column) for column in spec.data.text_columns),
        ("--label-column", spec.data.label_column),
        ("--task", spec.task.name if spec.task.name != TaskSpec().name else None),
        ("--budget", spec.budget.requested),
        ("--seed", str(spec.search.seed) if spec.search.seed else None),
    ]
    return [word for flag, value in values if value is not None for word in (flag, shlex.quote(value))]
