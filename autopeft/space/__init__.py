"""The search space: a YAML file says which policies there are, and a policy becomes a plan.

Inside the folder each file imports only from those before it:
spaces → sampling → layout → first.
"""

from __future__ import annotations

from autopeft.space.layout import (
    AllocationContext,
    cheapest,
    feasible,
    plan_everywhere,
    plan_of,
    select_targets,
)
from autopeft.space.listed import default_lora, head_alone, listed_policies
from autopeft.space.sampling import (
    is_point_of,
    learning_rates,
    parameters,
    parameters_of,
    policy_of_parameters,
)
from autopeft.space.spaces import (
    BASELINE_METHOD,
    SERVERS,
    Choices,
    ListedPlan,
    MethodSpace,
    Policy,
    Space,
    load,
    names,
    servable,
    text_of,
)
