"""The protocols of plug-ins, and `discover`, which finds the installed ones.

To add a PEFT method, a task type, a metric, a score or an exporter, write one file in the folder of that name
with a module-level `PLUGIN`. Another package publishes them as entry points in the groups `autopeft.methods`,
`autopeft.tasks` and so on, as `tests/example_package` does.

Inside the folder each file imports only from those before it:
exporter, method, own_functions, score, task → discovery.
"""

from autopeft.plugins.discovery import PROTOCOLS, Catalogue, discover, hint_for
from autopeft.plugins.exporter import Checkpoint, Exporter, ExportSource, NeededBase, TrainingFacts
from autopeft.plugins.method import (
    MIXES_SINCE_PEFT,
    REFERENCE_WIDTH,
    Method,
    Options,
    missing_in_peft,
    rate_factor,
    slow_starters,
)
from autopeft.plugins.own_functions import allow_own_function, is_own_metric, own_function
from autopeft.plugins.score import Score
from autopeft.plugins.task import (
    IGNORED,
    PACKED_KINDS,
    PROMPTED_KINDS,
    Batch,
    Encoded,
    Evaluation,
    Example,
    LabelKind,
    LabelSpace,
    Metric,
    PlacesBatches,
    Task,
    TaskDefaults,
    WrittenText,
    last_answer,
)
