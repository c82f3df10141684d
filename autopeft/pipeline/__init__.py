"""The only room that knows all the others: one function for each command and each Python call.

Inside the folder each file imports only from those before it: computing, defaults, in_memory, plan_settings,
resuming, tracking, turns → prepare → fingerprint, problem, scoring → allowance, reporting, working →
estimating, forecast, hub_folder → best, counting, previewing → analyzing, applying, exporting, searching,
training → verifying → pushing.
"""

from __future__ import annotations

from autopeft.pipeline.analyzing import Analysis, Suggestion, analyze, suggest
from autopeft.pipeline.applying import apply, load_finished, save
from autopeft.pipeline.counting import (
    Count,
    Counted,
    MethodsOnModel,
    count,
    count_step,
    count_steps,
    methods_on,
)
from autopeft.pipeline.estimating import EstimateRequest, RunEstimate, RunRequest, StepEstimate, estimate_step
from autopeft.pipeline.exporting import Export, ExportRequest, export
from autopeft.pipeline.forecast import Forecast, Span
from autopeft.pipeline.in_memory import InMemory
from autopeft.pipeline.previewing import Preview, TaskFacts, preview
from autopeft.pipeline.pushing import Pushed, PushRequest, push
from autopeft.pipeline.reporting import part_words, render, render_several
from autopeft.pipeline.searching import search
from autopeft.pipeline.training import train_plan
from autopeft.pipeline.turns import one_at_a_time
from autopeft.pipeline.verifying import Reading, Verification, VerifyRequest, verify
