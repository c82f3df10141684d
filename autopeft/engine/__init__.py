"""The search engine: which plan is measured at which fidelity, and what is handed over.

Everything is decided by the seed and by what was measured, in an order that does not depend on the executor.
A stopped run continues when it runs again with its earlier measurements. Start with `search.py`.

Inside the folder each file imports only from those before it:
problem → runs, cost → study → finalists → judge → search.
"""

from __future__ import annotations

from autopeft.engine.cost import planned_runs, repeated_steps, search_cost, usual_cost
from autopeft.engine.problem import EVAL_COST, Lengths, SearchProblem
from autopeft.engine.runs import Key, Limits, Runs
from autopeft.engine.search import search
from autopeft.engine.study import STUDY, Study
