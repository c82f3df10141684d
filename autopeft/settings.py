"""Settings from four places, the later over the earlier: defaults, file, environment, flags."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from autopeft.errors import SpecError, UnknownNameError
from autopeft.records import RunSpec
from autopeft.store import faults_of, load_value, read_yaml

# What the command line (with hyphens) and Python call the settings that have a short name.
SHORT_NAMES: Mapping[str, str] = {
    "model": "model.id",
    "revision": "model.revision",
    "quantize": "model.quantize",
    "data": "data.source",
    "data_config": "data.config_name",
    "text_column": "data.text_columns",
    "label_column": "data.label_column",
    "streaming": "data.streaming",
    "max_examples": "data.max_examples",
    "group_column": "data.group_column",
    "time_column": "data.time_column",
    "task": "task.name",
    "metric": "task.metric",
    "epochs": "task.epochs",
    "max_steps": "task.max_steps",
    "batch_size": "task.batch_size",
    "max_length": "task.max_length",
    "budget": "budget.requested",
    "count_head": "budget.count_head",
    "space": "search.space",
    "methods": "search.methods",
    "serve_on": "search.serve_on",
    "trials": "search.trials",
    "max_time": "search.max_time_seconds",
    "max_cost": "search.max_cost",
    "patience": "search.patience",
    "sampler": "search.sampler",
    "strategy": "search.strategy",
    "objective": "search.objective",
    "warm_start": "search.warm_start",
    "baseline": "search.baseline",
    "score": "search.score",
    "seed": "search.seed",
    "max_rank": "limits.max_rank",
    "mergeable": "limits.mergeable",
    "max_step_time": "limits.max_step_time",
    "max_peak_memory": "limits.max_peak_bytes",
    "max_adapter_size": "limits.max_adapter_bytes",
    "confirm": "confirm.fidelity",
    "confirm_seeds": "confirm.seeds",
    "margin": "confirm.margin",
    "forgetting": "forgetting.source",
    "executor": "execution.executor",
    "workers": "execution.workers",
    "device": "execution.device",
    "dtype": "execution.dtype",
    "out": "output.out",
}

_PREFIX = "AUTOPEFT_"
_UNIT_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_BYTES = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(?:([kmgt])(i?))?b?", re.ASCII)
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>\d+(?:\.\d+)?){unit})?" for unit in _UNIT_SECONDS))


@dataclass(frozen=True, kw_only=True)
class _Given:
    """One setting that the user gave; `origin` says where, `is_text` that it is yet to be parsed."""

    name: str
    value: Any
    origin: str
    is_text: bool = False


def resolve(
    *,
    config: Path | None,
    env: Mapping[str, str],
    flags: Mapping[str, object],
    assignments: Sequence[str],
    origin: str = "flag",
) -> tuple[RunSpec, frozenset[str]]:
    """The settings of a run, and the names of those that the user gave anywhere.

    Args:
        config: YAML file, nested by topic (`search: {trials: 30}`).
        env: Environment; `AUTOPEFT_SEARCH_TRIALS=30` is read, an empty value counts as not given.
        flags: Dotted name -> value of the command line's own options; None means not given.
        assignments: What `--set` was given, `search.trials=30` each; flags of their own win over these.
        origin: What errors call a flag.

    Returns:
        The settings, and dotted names such as `search.trials`.

    Raises:
        UnknownNameError: A topic, setting or `AUTOPEFT_` variable that does not exist.
        SpecError: Values of the wrong type or out of range; all are named with their place.
    """
    sources = (
        _from_file(config),
        _from_environment(env),
        _from_assignments(assignments),
        _from_flags(flags, origin),
    )
    by_name = {given.name: given for source in sources for given in source}
    content: dict[str, dict[str, Any]] = {}
    faults = []
    for name, given in by_name.items():
        topic, _, field = name.partition(".")
        try:
            content.setdefault(topic, {})[field] = _value(given)
        except SpecError as error:
            faults.append(f"{name} ({given.origin}): {str(error).rstrip('.')}")
    try:
        # Strict, so that `trials: true` is not 1; from JSON, whose lists may become tuples.
        spec = RunSpec.model_validate_json(json.dumps(content, default=str), strict=True)
    except ValidationError as error:
        for name, fault in faults_of(error):
            setting = ".".join(name.split(".")[:2])  # `data.text_columns.0` is a part of one
            faults.append(f"{name} ({by_name[setting].origin}) {fault}")
    if faults:
        raise SpecError(f"These settings cannot be used: {'; '.join(faults)}.")
    return spec, frozenset(by_name)


def by_dotted_name(asked: Mapping[str, object]) -> dict[str, object]:
    """Settings by their dotted names, given by short or dotted ones; what is no setting is left out.

    Example:
        >>> by_dotted_name({"trials": 30, "search.score": "snr", "as_json": True})
        {'search.trials': 30, 'search.score': 'snr'}
    """
    dotted = {SHORT_NAMES.get(name, name): value for name, value in asked.items()}
    return {name: value for name, value in dotted.items() if name in _SETTINGS}


def parse_duration(text: str) -> float:
    """Seconds, > 0, in `7m30s`, `90s`, `2h`, `1d` or `450`; raises SpecError on anything else.

    Example:
        >>> parse_duration("7m30s")
        450.0
    """
    compact = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", compact):
        compact += "s"
    match = _DURATION.fullmatch(compact)
    parts = match.groupdict(default="0") if match else {}
    seconds = sum(float(number) * _UNIT_SECONDS[unit] for unit, number in parts.items())
    if not 0 < seconds < math.inf:
        raise SpecError(
            f"{text!r} is not a duration; write more than nothing, like 7m30s, 90s, 2h or 450 (seconds)."
        )
    return seconds


def parse_bytes(text: str) -> int:
    """Whole bytes, >= 1, in `2GiB` (of 1,024), `500MB` (of 1,000) or `123456`; raises SpecError otherwise.

    Example:
        >>> parse_bytes("2GiB"), parse_bytes("1.5 kB")
        (2147483648, 1500)
    """
    match = _BYTES.fullmatch(text.strip().lower())
    n_bytes = 0
    if match is not None:
        thousands = "kmgt".index(match[2]) + 1 if match[2] else 0
        n_bytes = int(Fraction(match[1]) * (1024 if match[3] else 1000) ** thousands)
    if n_bytes < 1:
        raise SpecError(f"{text!r} is not an amount of memory; write it like 2GiB, 500MB or 123456 (bytes).")
    return n_bytes


def _annotations() -> dict[str, Any]:
    """Dotted name of every setting -> its type."""
    return {
        f"{topic}.{name}": field.annotation
        for topic, topic_field in RunSpec.model_fields.items()
        for name, field in topic_field.annotation.model_fields.items()  # type: ignore[union-attr]
    }


_SETTINGS = _annotations()
_VARIABLES = {_PREFIX + name.replace(".", "_").upper(): name for name in _SETTINGS}


def _known(name: str, origin: str) -> str:
    if name not in _SETTINGS:
        raise UnknownNameError(f"setting ({origin})", name, _SETTINGS)
    return name


def _from_file(path: Path | None) -> Iterator[_Given]:
    if path is None:
        return
    for topic, fields in read_yaml(path).items():
        if topic in RunSpec.model_fields and fields is None:
            continue  # a topic with everything below it commented out
        if not isinstance(fields, dict):
            if topic not in RunSpec.model_fields:
                _known(str(topic), str(path))
            raise SpecError(
                f"{path}: {topic} is {fields!r}; it should hold settings, one `name: value` a line."
            )
        for field, value in fields.items():
            name = _known(f"{topic}.{field}", str(path))
            yield _Given(name=name, value=value, origin=str(path))


def _from_environment(env: Mapping[str, str]) -> Iterator[_Given]:
    for variable in sorted(env):
        if not variable.startswith(_PREFIX):
            continue
        if variable not in _VARIABLES:
            raise UnknownNameError("environment variable", variable, _VARIABLES)
        if env[variable].strip():
            yield _Given(name=_VARIABLES[variable], value=env[variable], origin=variable, is_text=True)


def _from_assignments(assignments: Sequence[str]) -> Iterator[_Given]:
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise SpecError(f"--set {assignment} has no value; write it like --set search.trials=30.")
        yield _Given(name=_known(name.strip(), "--set"), value=value, origin="--set", is_text=True)


def _from_flags(flags: Mapping[str, object], origin: str) -> Iterator[_Given]:
    for name, value in flags.items():
        if value is not None:
            yield _Given(name=_known(name, origin), value=value, origin=origin)


def _value(given: _Given) -> Any:
    kind = _SETTINGS[given.name]
    value = _read_text(given.value.strip(), kind, given.origin) if given.is_text else given.value
    if get_origin(kind) is tuple and isinstance(value, str):
        return [
            word.strip(" '\"")
            for word in value.removeprefix("[").removesuffix("]").split(",")
            if word.strip()
        ]
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{value} is not finite")
    if given.name == "budget.requested" and type(value) in (int, float):
        return str(int(value)) if value == int(value) else str(value)
    if given.name == "search.max_time_seconds" and isinstance(value, str):
        return parse_duration(value)
    if given.name.endswith("_bytes") and isinstance(value, str):
        return parse_bytes(value)
    return value


def _read_text(text: str, kind: Any, origin: str) -> Any:
    if text in ("", "~", "null") and type(None) in get_args(kind):
        return None
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if get_origin(kind) is tuple or (kind in (str, str | None) and not is_quoted):
        return text  # as it stands: `0012345` may be a commit, `C:\data` a path
    return load_value(text, source=origin)
