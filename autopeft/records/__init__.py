"""The frozen records that pass between modules, and their one way to and from JSON.

Nothing here imports torch. Records are keyword-only and hold tuples, so that a
`Plan` can be a dictionary key and a finished `Measurement` cannot change.

Inside the folder each file imports only from those before it:
version, text, settings, metric → spec → commands, plans → results.
"""

from __future__ import annotations

from autopeft.records.commands import repeat_command, resume_command, search_command, train_command
from autopeft.records.metric import MetricFacts
from autopeft.records.plans import (
    Adapter,
    Budget,
    Fidelity,
    Measurement,
    Options,
    OptionValue,
    Plan,
    PlanDocument,
    Site,
    Status,
)
from autopeft.records.results import (
    NULL_SCORES,
    PROFILE_SCORE,
    UNEVEN_NULLS,
    Arm,
    Confirmation,
    Cost,
    Decision,
    Forgetting,
    GeneralLoss,
    GeneralText,
    Outcome,
    Proposal,
    Proxy,
    ScorePair,
    SearchResult,
    Sensitivity,
    Setting,
    SiteScores,
    SplitSizes,
    Verdict,
)
from autopeft.records.spec import (
    IN_MEMORY,
    MAX_SEED,
    QUANTISED,
    SETTINGS,
    SHORT_NAMES,
    BudgetSpec,
    ConfirmSpec,
    DataSpec,
    ExecutionSpec,
    ForgettingSpec,
    LimitSpec,
    ModelSpec,
    OutputSpec,
    RunSpec,
    SearchSpec,
    TaskSpec,
)
from autopeft.records.text import (
    digest_of,
    from_json,
    to_json,
)
from autopeft.records.version import VERSION

__all__ = [
    "IN_MEMORY",
    "MAX_SEED",
    "NULL_SCORES",
    "PROFILE_SCORE",
    "QUANTISED",
    "SETTINGS",
    "SHORT_NAMES",
    "UNEVEN_NULLS",
    "VERSION",
    "Adapter",
    "Arm",
    "Budget",
    "BudgetSpec",
    "ConfirmSpec",
    "Confirmation",
    "Cost",
    "DataSpec",
    "Decision",
    "ExecutionSpec",
    "Fidelity",
    "Forgetting",
    "ForgettingSpec",
    "GeneralLoss",
    "GeneralText",
    "LimitSpec",
    "Measurement",
    "MetricFacts",
    "ModelSpec",
    "OptionValue",
    "Options",
    "Outcome",
    "OutputSpec",
    "Plan",
    "PlanDocument",
    "Proposal",
    "Proxy",
    "RunSpec",
    "ScorePair",
    "SearchResult",
    "SearchSpec",
    "Sensitivity",
    "Setting",
    "Site",
    "SiteScores",
    "SplitSizes",
    "Status",
    "TaskSpec",
    "Verdict",
    "digest_of",
    "from_json",
    "repeat_command",
    "resume_command",
    "search_command",
    "to_json",
    "train_command",
]
