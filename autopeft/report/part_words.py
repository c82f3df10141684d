"""The words of the installed plug-ins that a report needs."""

from __future__ import annotations

from dataclasses import replace

from autopeft import adapters, exports
from autopeft.errors import AutopeftError
from autopeft.model.checkpoint_source import loading_class_of_type
from autopeft.plugins import discover
from autopeft.report.plan_names import PartWords, choice_key
from autopeft.types import SearchResult, SearchSoFar, TrainedPlan


def part_words(result: SearchResult | SearchSoFar | TrainedPlan) -> PartWords:
    """Return the names of the installed methods, and how the weights of the best plan are loaded."""
    setting, methods = result.setting, discover("autopeft.methods")
    # A report may be written where a plug-in of the run is no longer installed.
    task = dict(discover("autopeft.tasks")).get(setting.task)
    labels = {name: method.label for name, method in methods.items()}
    for method in methods.values():
        for option, values in method.choices.items():
            for value in values[1:]:  # the first choice is the usual one
                default = f"{option.replace('_', ' ')} {value}"
                label = method.choice_labels.get(f"{option}={value}", default)
                labels[choice_key(method.name, option, value)] = label
    words = PartWords(
        labels=labels,
        short_labels={name: method.short_label for name, method in methods.items()},
        auto_class=loading_class_of_type(setting.model_type, task.auto_class) if task else "AutoModel",
    )
    if result.best is None:
        return words
    try:
        stack = adapters.compile_plan(result.best, methods)
    except AutopeftError:  # a method is not installed
        return words
    modules = dict.fromkeys(type(config).__module__ for config in stack.configs)
    return replace(
        words,
        order=stack.names if len(stack.configs) > 1 else (),
        imports=tuple(name for name in modules if not name.startswith("peft.")),
        servers=exports.servers_of(stack.configs),
    )
