"""The words of the installed plug-ins that a report needs."""

from __future__ import annotations

from collections.abc import Mapping

from autopeft import adapters, exports, report
from autopeft.errors import AutopeftError
from autopeft.model.checkpoint_source import loading_class_of_type
from autopeft.plugins import discover
from autopeft.report import PartWords, WeightFolders
from autopeft.types import Plan, SearchResult, SearchSoFar, TrainedPlan


def part_words(result: SearchResult | SearchSoFar | TrainedPlan) -> PartWords:
    """Return the names of the installed methods, and how the weights of the best plan are loaded."""
    setting, methods = result.setting, discover("autopeft.methods").values()
    # A report may be written where a plug-in of the run is no longer installed.
    task = dict(discover("autopeft.tasks")).get(setting.task)
    labels = {method.name: method.label for method in methods}
    for method in methods:
        choice_labels: Mapping[str, str] = getattr(method, "choice_labels", {})  # optional in plug-ins
        for option, values in method.choices.items():
            for value in values[1:]:  # the first choice is the usual one
                default = f"{option.replace('_', ' ')} {value}"
                label = choice_labels.get(f"{option}={value}", default)
                labels[report.choice_key(method.name, option, value)] = label
    return PartWords(
        labels=labels,
        short_labels={method.name: method.short_label for method in methods},
        auto_class=loading_class_of_type(setting.model_type, task.auto_class) if task else "AutoModel",
        weights=WeightFolders() if result.best is None else _weight_folders(result.best),
    )


def _weight_folders(plan: Plan) -> WeightFolders:
    """Describe how a plan's weights are loaded; as those of one config if a method is not installed."""
    try:
        stack = adapters.compile_plan(plan, discover("autopeft.methods"))
    except AutopeftError:
        return WeightFolders()
    modules = dict.fromkeys(type(config).__module__ for config in stack.configs)
    return WeightFolders(
        order=stack.names if len(stack.configs) > 1 else (),
        imports=tuple(name for name in modules if not name.startswith("peft.")),
        servers=exports.servers_of(stack.configs),
    )
