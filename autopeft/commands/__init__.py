"""One file for each thing that a user asks for, readable from top to bottom.

Of these files, count and suggest import estimate, and preview and search import forecast.
"""

from __future__ import annotations

from autopeft.commands.analyze import Analysis, analyze
from autopeft.commands.check import Check, check
from autopeft.commands.count import count
from autopeft.commands.estimate import StepEstimate, estimate_step
from autopeft.commands.export import export
from autopeft.commands.preview import Preview, preview
from autopeft.commands.push import Pushed, push
from autopeft.commands.search import run_search
from autopeft.commands.suggest import Suggestion, suggest
from autopeft.commands.train import Trained, train_plan
from autopeft.commands.try_run import Reply, predict, try_run
from autopeft.commands.tune import finish, tune
from autopeft.finished.loading import apply, load_finished, save
from autopeft.trials.study import Study
