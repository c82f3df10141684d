"""The only room that knows all the others: one function for each command and each Python call.

Inside the folder each file imports only from those before it: turns, frames, step_log, plan_settings,
example_length → in_memory, spreading, defaults, estimate_request, estimate_trainee,
keeping, measured →
resuming, environment, computing → row_lengths, export_base, prepare → same_base, fitting, compared → scoring,
counting, listing, chance → fingerprint, reporting → hub_folder, unfinished →
exported_training, best, working → applying, problem, ledger → allowance → forecast,
estimating → comparing, time_limit, tracking, task_facts → previewing, searching, exporting →
analyzing, training, suggesting → reference → verifying, pushing.
"""

from __future__ import annotations

from autopeft.pipeline.analyzing import Analysis, analyze
from autopeft.pipeline.applying import apply, load_confirmed, save
from autopeft.pipeline.comparing import Counted, count_step, count_steps
from autopeft.pipeline.counting import Count, count
from autopeft.pipeline.estimate_request import EstimateRequest, RunEstimate, RunRequest, StepEstimate
from autopeft.pipeline.estimating import estimate_step
from autopeft.pipeline.exporting import Export, ExportRequest, export
from autopeft.pipeline.forecast import Forecast, Span
from autopeft.pipeline.in_memory import InMemory
from autopeft.pipeline.listing import MethodsOnModel, methods_on
from autopeft.pipeline.previewing import Preview, preview
from autopeft.pipeline.pushing import Pushed, PushRequest, push
from autopeft.pipeline.reporting import part_words, render, render_several
from autopeft.pipeline.searching import search
from autopeft.pipeline.suggesting import Suggestion, suggest
from autopeft.pipeline.task_facts import TaskFacts
from autopeft.pipeline.training import train_plan
from autopeft.pipeline.turns import one_at_a_time
from autopeft.pipeline.verifying import Reading, Verification, VerifyRequest, verify

__all__ = [
    "Analysis",
    "Count",
    "Counted",
    "EstimateRequest",
    "Export",
    "ExportRequest",
    "Forecast",
    "InMemory",
    "MethodsOnModel",
    "Preview",
    "PushRequest",
    "Pushed",
    "Reading",
    "RunEstimate",
    "RunRequest",
    "Span",
    "StepEstimate",
    "Suggestion",
    "TaskFacts",
    "Verification",
    "VerifyRequest",
    "analyze",
    "apply",
    "count",
    "count_step",
    "count_steps",
    "estimate_step",
    "export",
    "load_confirmed",
    "methods_on",
    "one_at_a_time",
    "part_words",
    "preview",
    "push",
    "render",
    "render_several",
    "save",
    "search",
    "suggest",
    "train_plan",
    "verify",
]
