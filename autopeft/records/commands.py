"""What to type to go on: a command, or Python where the model or the data were passed as objects."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from operator import attrgetter
from pathlib import Path, PurePath

from autopeft.records.spec import IN_MEMORY, SHORT_NAMES, DataSpec, ModelSpec, RunSpec

# The settings that say which problem was solved; how it was searched is left to the defaults.
_PROBLEM = ("model", "quantize", "data", "text_column", "label_column", "task", "budget", "seed")
_IS_WINDOWS = os.name == "nt"
_PLAIN = re.compile(r"[\w%+:./\\-][\w%+=@:./\\~-]*")  # neither cmd nor PowerShell sees a sign in it
_WORD = r"""('[^']*'|"[^"]*"|[^\s`]+)"""  # the quotes are those of `quoted`
_RESUME = re.compile(rf"autopeft search --resume --out {_WORD}")
_SEARCH = re.compile(rf"`?autopeft search --config {_WORD}`?")
_FLAG = re.compile(r"(?<![\w/.-])--([a-z][a-z-]*)")
_SWITCHES = {"resume": "resume=True", "overwrite": "overwrite=True"}


def search_command(spec: RunSpec) -> str:
    """Write the search with the same model, data, task, budget and seed."""
    values = {name: attrgetter(SHORT_NAMES[name].name)(spec) for name in _PROBLEM}
    defaults = {name: SHORT_NAMES[name].default for name in _PROBLEM}
    values = {name: v for name, v in values.items() if name == "budget" or v != defaults[name]}
    if spec.is_in_memory:
        return f"autopeft.search({', '.join(_argument(name, value) for name, value in values.items())})"
    words = ["autopeft search"]
    for name, value in values.items():
        for item in value if isinstance(value, tuple) else (value,):
            words += [str(SHORT_NAMES[name].flag), quoted(str(item))]
    return " ".join(words)


def repeat_command(spec: RunSpec) -> str:
    """Write the search that repeats a run from its `run.yaml`."""
    if spec.has_own_trainer:
        return "autopeft tune …"
    if spec.is_in_memory:
        return f"autopeft.search('run.yaml', {_objects(spec.model, spec.data)})"
    return "autopeft search --config run.yaml"


def resume_command(spec: RunSpec, out: Path) -> str:
    """Write the search that continues the run in a folder."""
    if spec.has_own_trainer:
        return f"autopeft tune … --out {quoted(str(out))}"
    if spec.is_in_memory:
        return f"autopeft.search({_objects(spec.model, spec.data)}, out={str(out)!r}, resume=True)"
    # What a run may do only if the user names it in the call.
    metric = spec.task.metric if ":" in (spec.task.metric or "") else None
    named = {
        "--report-to": ",".join(spec.output.report_to),
        "--evaluate": spec.search.evaluate,
        "--metric": metric,
    }
    words = [f" {flag} {quoted(name)}" for flag, name in named.items() if name]
    return f"autopeft search --resume --out {quoted(str(out))}{''.join(words)}"


def train_command(plan: PurePath, model: ModelSpec, data: DataSpec) -> str:
    """Write the training of the plan in a file; with a model or data in memory, the attaching of the plan."""
    if IN_MEMORY in (model.id, data.source):
        return f"autopeft.apply(autopeft.load_plan({str(plan)!r}), model)"
    return f"autopeft train --plan {quoted(str(plan))}"


def quoted(word: str) -> str:
    """Quote a word for the shell of this system; those of Windows take double quotes."""
    if not _IS_WINDOWS:
        return shlex.quote(word)
    listed = subprocess.list2cmdline([word])  # for a program; a shell would split at & or a comma, too
    if '"' in listed or _PLAIN.fullmatch(word):
        return listed
    end = "\\" * (len(word) - len(word.rstrip("\\")))  # which would hide the quote
    return f'"{word}{end}"'


def _objects(model: ModelSpec, data: DataSpec) -> str:
    values = {"model": model.id, "data": data.source}
    return ", ".join(_argument(name, value) for name, value in values.items() if value == IN_MEMORY)


def _argument(name: str, value: object) -> str:
    """`name=value` in Python; an object stands as a variable, and a tokenizer goes with a model."""
    if value == IN_MEMORY:
        return f"{name}={name}" + (", tokenizer=tokenizer" if name == "model" else "")
    return f"{name}={list(value) if isinstance(value, tuple) else value!r}"


def in_words_of(spec: RunSpec, message: str) -> str:
    """Put arguments in place of a message's flags if objects in memory were passed to the run."""
    return python_words(message) if spec.is_in_memory else message


def python_words(message: str) -> str:
    """Put Python arguments in place of the flags and commands of a message."""
    message = _RESUME.sub(lambda m: f"autopeft.search(out={_in_python(m[1])}, resume=True)", message)
    message = _SEARCH.sub(lambda m: f"autopeft.search({_in_python(m[1])})", message)
    arguments = {str(field.flag).removeprefix("--"): short for short, field in SHORT_NAMES.items()}
    arguments |= {"base-model": "base_model", "private": "private", **_SWITCHES}
    return _FLAG.sub(lambda m: arguments.get(m[1], m[0]), message)


def _in_python(word: str) -> str:
    return repr(word.strip("'\""))
