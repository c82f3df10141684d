"""The frozen records that are passed between packages, and their conversion to and from JSON.

Nothing here imports torch. Records are keyword-only and hold tuples, so that a
`Plan` can be a dictionary key and a finished `Measurement` cannot change.

Inside the folder each file imports only from those before it:
version, text, fields → spec → commands, plans → outcomes.
"""

from __future__ import annotations

from autopeft.types.commands import (
    quoted,
    repeat_command,
    resume_command,
    train_command,
)
from autopeft.types.outcomes import (
    SEEN_ENOUGH,
    SIZE_SCORE,
    Arm,
    Cost,
    Decision,
    FullRun,
    Outcome,
    Proposal,
    Refit,
    SearchFacts,
    SearchResult,
    SearchSoFar,
    Sensitivity,
    SizeStep,
    SplitSizes,
    TargetScores,
    TrainedPlan,
    Verdict,
    proposal_of,
)
from autopeft.types.plans import (
    FLOAT32_BYTES,
    FUSED_ROLES,
    ROLE_GROUPS,
    Adapter,
    Budget,
    EvaluatedSplit,
    Fidelity,
    Measurement,
    MetricFacts,
    OptionPairs,
    OptionValue,
    Plan,
    PlanDocument,
    Status,
    Target,
    layer_name,
)
from autopeft.types.spec import (
    IN_MEMORY,
    MAX_SEED,
    OWN_TRAINER,
    QUANTIZED,
    SETTINGS,
    SHORT_NAMES,
    BudgetSpec,
    Component,
    DataSpec,
    ExecutionSpec,
    ModelSpec,
    OutputSpec,
    RunSpec,
    SearchSpec,
    TaskSpec,
    with_setting,
)
from autopeft.types.text import (
    counted,
    digest_of,
    from_json,
    listed,
    minus,
    path_at_home,
    rate,
    rate_position,
    shortened,
    to_json,
)
from autopeft.types.version import VERSION
