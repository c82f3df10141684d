"""Commands that a user may type next, or Python if the model or the data were passed as objects."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path, PurePath

from autopeft.types.spec import IN_MEMORY, DataSpec, ModelSpec, RunSpec

_IS_WINDOWS = os.name == "nt"


def repeat_command(spec: RunSpec) -> str:
    """Return the search that repeats a run from its `run.yaml`; abridged for a user's trainer."""
    if spec.has_own_trainer:
        return "autopeft tune …"
    if spec.is_in_memory:
        return f"autopeft.search('run.yaml', {_objects(spec.model, spec.data)})"
    return "autopeft search --config run.yaml"


def resume_command(spec: RunSpec, out: Path) -> str:
    """Return the search that resumes the run in a folder; abridged for a user's trainer."""
    if spec.has_own_trainer:
        return f"autopeft tune … --out {quoted(str(out))}"
    if spec.is_in_memory:
        return f"autopeft.search({_objects(spec.model, spec.data)}, out={str(out)!r}, resume=True)"
    # What a run only does if the user names it in the call.
    metric = spec.task.metric if ":" in (spec.task.metric or "") else None
    named = {
        "--report-to": ",".join(spec.output.report_to),
        "--metric": metric,
    }
    words = [f" {flag} {quoted(name)}" for flag, name in named.items() if name]
    return f"autopeft search --resume --out {quoted(str(out))}{''.join(words)}"


def train_command(plan: PurePath, model: ModelSpec, data: DataSpec) -> str:
    """Return the training of a plan's file, or Python that attaches it to a model in memory."""
    if IN_MEMORY in (model.id, data.source):
        return f"autopeft.apply(autopeft.load_plan({str(plan)!r}), model)"
    return f"autopeft train --plan {quoted(str(plan))}"


def quoted(word: str) -> str:
    """Quote a word for the shell of this system; Windows takes double quotes."""
    return subprocess.list2cmdline([word]) if _IS_WINDOWS else shlex.quote(word)


def _objects(model: ModelSpec, data: DataSpec) -> str:
    """Return the arguments for what was in memory, as variables of their names."""
    model_words = "model=model, tokenizer=tokenizer" if model.id == IN_MEMORY else ""
    return ", ".join(filter(None, (model_words, "data=data" if data.source == IN_MEMORY else "")))
