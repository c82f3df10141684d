"""The search space: a YAML file says which policies there are, and a policy becomes a plan.

Inside the folder each file imports only from those before it:
spaces → files, limits, sampling → layout → baselines.
"""

from __future__ import annotations

from autopeft.space.baselines import BASELINE_METHOD, baseline_policies, scored_policy, usual_policies
from autopeft.space.files import load, names, text_of
from autopeft.space.layout import (
    AllocationContext,
    cheapest,
    feasible,
    params_of,
    plan_of,
    select_sites,
    widened,
)
from autopeft.space.limits import SERVERS, limited, servable
from autopeft.space.sampling import learning_rates, suggest, within
from autopeft.space.spaces import MethodSpace, MixPart, Policy, Space
