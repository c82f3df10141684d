"""What the parts of a search say about themselves, for its report."""

from __future__ import annotations

from autopeft.extension import discover
from autopeft.records import Setting
from autopeft.report import PartWords


def part_words(setting: Setting) -> PartWords:
    """Names of the installed methods, the class of the base model, and whether the metric is a share."""
    methods = discover("autopeft.methods").values()
    # A run may be rendered where a part of it is no longer installed.
    task = dict(discover("autopeft.tasks")).get(setting.task)
    metric = dict(discover("autopeft.metrics")).get(setting.metric)
    stored = setting.metric_is_share  # None in a run from before version 0.2.0
    return PartWords(
        labels={method.name: method.label for method in methods},
        short_labels={method.name: method.short_label for method in methods},
        auto_class=task.auto_class if task else "AutoModel",
        metric_is_share=metric is not None and metric.is_share if stored is None else stored,
    )
