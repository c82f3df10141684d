"""The search space: a YAML file says which policies there are, and a policy becomes a plan.

Inside the folder each file imports only from those before it: files → policies.
"""

from __future__ import annotations

from autopeft.space.files import SERVERS, MethodSpace, MixPart, Space, folder, load, names, servable
from autopeft.space.policies import (
    Ground,
    Policy,
    baseline_policies,
    cheapest,
    feasible,
    learning_rates,
    parameters_of,
    plan_of,
    rate_factor,
    select_sites,
    suggest,
)

__all__ = [
    "SERVERS",
    "Ground",
    "MethodSpace",
    "MixPart",
    "Policy",
    "Space",
    "baseline_policies",
    "cheapest",
    "feasible",
    "folder",
    "learning_rates",
    "load",
    "names",
    "parameters_of",
    "plan_of",
    "rate_factor",
    "select_sites",
    "servable",
    "suggest",
]
