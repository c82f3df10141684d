"""One file for each thing that a user asks for, readable from top to bottom.

Inside the folder each file imports only from those before it: estimate, plan_settings, preview →
analyze, count, export, load, search, train → verify → push.
"""

from __future__ import annotations

from autopeft.commands.analyze import Analysis, Suggestion, analyze, suggest
from autopeft.commands.count import (
    Count,
    Counted,
    MethodsOnModel,
    count,
    count_step,
    count_steps,
    methods_on,
)
from autopeft.commands.estimate import EstimateRequest, RunEstimate, RunRequest, StepEstimate, estimate_step
from autopeft.commands.export import Export, ExportRequest, export
from autopeft.commands.load import apply, load_finished, save
from autopeft.commands.preview import Forecast, Preview, Span, TaskFacts, preview
from autopeft.commands.push import Pushed, PushRequest, push
from autopeft.commands.search import search
from autopeft.commands.train import train_plan
from autopeft.commands.verify import Reading, Verification, VerifyRequest, verify
from autopeft.run.prepare import InMemory
from autopeft.run.reporting import part_words, render, render_several
from autopeft.run.resources import one_at_a_time
