"""One file for each thing that a user asks for, readable from top to bottom.

Inside the folder each file imports only from those before it: estimate, info, load, preview, same_outputs,
served_answers, study, train → analyze, check, count, export, search, suggest, try_run, tune → push.
"""

from __future__ import annotations

from autopeft.commands.analyze import Analysis, analyze
from autopeft.commands.check import Check, check
from autopeft.commands.count import count
from autopeft.commands.estimate import StepEstimate, estimate_step
from autopeft.commands.export import export
from autopeft.commands.load import apply, load_finished, save
from autopeft.commands.preview import Preview, preview
from autopeft.commands.push import Pushed, push
from autopeft.commands.search import run_search
from autopeft.commands.study import Study
from autopeft.commands.suggest import Suggestion, SuggestRequest, suggest
from autopeft.commands.train import Trained, train_plan
from autopeft.commands.try_run import Reply, predict, try_run
from autopeft.commands.tune import finish, tune
