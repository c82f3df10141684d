"""Checks of a task's label space and metric, and the defaults of a full run by the kind of examples.

All numbers are heuristic, for the reasons next to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autopeft.errors import DataError, UnknownNameError
from autopeft.plugins import LabelSpace, TaskDefaults

# Encoders were trained on up to 512 tokens. Rows that are shorter than 128 tokens cost nothing by being
# allowed 128. Three epochs of 32 rows are the commonest setting of fine-tuning on GLUE. Few rows need more:
# hundreds of steps (Zhang et al., 2021) and 20 epochs (Mosbach et al., 2021); 10,000 examples are 300 steps.
LABELLED = TaskDefaults(max_length=(128, 512), batch_size=(1, 32), epochs=(3, 20), seen_examples=10_000)
TAGS = replace(LABELLED, family="tagging")
IMAGES = replace(LABELLED, max_length=None, family="images")
# One example of 2,048 tokens is a whole step. LoRA loses to full fine-tuning in batches of 32 and more (TRL,
# "LoRA Without Regret"). PEFT's method comparison sees 20,000 examples, in 5,000 steps of 4. The loss of 128
# completions is a mean over thousands of tokens.
COMPLETIONS = TaskDefaults(
    max_length=(128, 2048),
    batch_size=(4, 16),
    epochs=(1, 3),
    step_tokens=4096,
    seen_examples=20_000,
    eval_examples=128,
    family="language",
)
# Attention over more than 1,024 tokens makes a step slow, and fewer than 64 leave a text no context.
BLOCKS = replace(COMPLETIONS, max_length=(64, 1024), is_packed=True, eval_examples=32)
# Generation costs one pass of the model per token. A text that is cut before its answer counts as wrong.
GENERATED = replace(COMPLETIONS, max_new_tokens=(16, 1024))


def require_kind(task: str, label_space: LabelSpace, kinds: Sequence[str]) -> None:
    """Raise DataError if the task does not learn this kind of labels."""
    if label_space.kind not in kinds:
        raise DataError(
            f"{task} learns labels of kind {' or '.join(kinds)}, but these rows have {label_space.kind}; "
            "choose another --task."
        )


def require_metric(task: str, metric: str, metrics: Sequence[str]) -> None:
    """Raise UnknownNameError if the task cannot be judged by the metric."""
    if metric not in metrics:
        raise UnknownNameError(f"metric of {task}", metric, metrics)
