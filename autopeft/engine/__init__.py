"""The search engine: which plan is measured at which fidelity, and what is returned.

`search` is a generator without I/O: it yields the runs to measure and receives their measurements. Everything
is decided by the seed and the measurements, in an order that does not depend on who measures. A stopped run
resumes when it runs again with its earlier measurements. Start with `search.py`.

Inside the folder each file imports only from those before it:
problem → study → judge → search → driver.
"""

from __future__ import annotations

from autopeft.engine.driver import Driver, drive
from autopeft.engine.judge import full_run
from autopeft.engine.problem import Batch, Key, Request, SearchProblem
from autopeft.engine.search import search
from autopeft.engine.study import STUDY
