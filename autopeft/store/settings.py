"""Settings from four places, the later over the earlier: defaults, file, environment, flags."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Any, get_origin

from pydantic import ByteSize, TypeAdapter, ValidationError

from autopeft import budget
from autopeft.errors import SpecError, UnknownNameError
from autopeft.plugins import allow_own_function
from autopeft.store.yaml import faults_of, read_yaml
from autopeft.types import SETTINGS, SHORT_NAMES, RunSpec, path_at_home, with_setting

# Settings that may name a local file, which a resumed or repeated run loads again, maybe from another folder.
_SOURCES = ("model.id", "data.source", "search.baseline")
_VARIABLES = {field.variable: field.name for field in SETTINGS.values()}
_LARGEST_MODEL = 10**15  # parameters, more than any model has; heuristic
_UNIT_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+")

log = logging.getLogger(__name__)


def resolve_settings(
    *,
    config: Path | None = None,
    env: Mapping[str, str] = {},
    flags: Mapping[str, object] = {},
) -> RunSpec:
    """Resolve the settings of a run; `explicit` of the spec has those that the user set.

    Args:
        config: YAML file, nested by topic (`search: {trials: 30}`), or None.
        env: Environment; `AUTOPEFT_SEARCH_TRIALS=30` is read, an empty value counts as not given.
        flags: Dotted name -> value of flags of the command line or arguments in Python; None: not given.

    Raises:
        UnknownNameError: A topic, setting or `AUTOPEFT_` variable that does not exist.
        SpecError: Values of the wrong type or out of range; all are listed with their place.
    """
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for name, value, place in (
        *(_of_file(config) if config else ()),
        *_of_environment(env),
        *((name, value, SETTINGS[name].flag) for name, value in flags.items() if value is not None),
    ):
        values[name], places[name] = value, place
    for name, place in places.items():
        if place in env:
            log.info("%s sets %s to %s.", place, name, values[name])  # it may have been set days ago
    spec = _with_whole_paths(_checked(values, places), values)
    if "task.metric" in values and places["task.metric"] != str(config):
        allow_own_function(spec.task.metric)
    return spec


def _checked(values: Mapping[str, Any], places: Mapping[str, str]) -> RunSpec:
    """Make the spec of some values by dotted name, or raise one SpecError that lists all faults."""
    content: dict[str, dict[str, Any]] = {}
    faults = []
    for name, value in values.items():
        topic, _, field = name.partition(".")
        try:
            content.setdefault(topic, {})[field] = _typed(name, value)
        except SpecError as error:
            faults.append(f"{name} ({places[name]}): {str(error).rstrip('.')}")
    try:
        spec = RunSpec.model_validate_json(json.dumps(content, default=str))
        if spec.budget.requested != budget.AUTO:
            budget.parse(spec.budget.requested, base_params=_LARGEST_MODEL, rank_params=1)
    except ValidationError as error:
        for name, fault in faults_of(error):
            setting = ".".join(name.split(".")[:2])  # `data.text_columns.0` is an item of a setting
            faults.append(f"{name} ({places.get(setting)}) {fault}")
    except SpecError as error:
        faults.append(f"budget.requested ({places['budget.requested']}): {str(error).rstrip('.')}")
    if faults:
        raise SpecError(f"These settings cannot be used: {'; '.join(faults)}.")
    return spec


def _with_whole_paths(spec: RunSpec, values: Mapping[str, Any]) -> RunSpec:
    """Make the paths among the given values absolute."""
    for name in (*_SOURCES, "search.space"):
        source = attrgetter(name)(spec)
        is_shipped = name == "search.space" and not is_path_of_space(source)
        if name in values and source is not None and not is_shipped:
            spec = with_setting(spec, name, whole_path(source))
    if spec.output.out is not None:  # not absolute, since a run directory may be moved
        spec = with_setting(spec, "output.out", str(path_at_home(spec.output.out)))
    return spec


def is_path_of_space(name: str) -> bool:
    """Whether the name of a search space is a path, and not that of a space that autopeft ships."""
    return name.endswith((".yaml", ".yml")) or "/" in name


def whole_path(source: str) -> str:
    """Make the paths of existing files absolute, so that a run finds them from any folder.

    Several files may be separated by commas. Other names, such as hub ids, stay as they are. Links are not
    followed, since their names may show the format of a file.
    """
    words = [source] if _exists(source) else [word.strip() for word in source.split(",") if word.strip()]
    if not words or not all(map(_exists, words)):
        return source
    return ",".join(str(path_at_home(word).absolute()) for word in words)


def _exists(path: str) -> bool:
    return bool(path) and os.path.exists(path_at_home(path))  # noqa: PTH110 - False for a name too long


def by_dotted_name(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the short names of settings by their dotted names; raises UnknownNameError for other names."""
    dotted = {name: field.name for name, field in SHORT_NAMES.items()} | {name: name for name in SETTINGS}
    dotted |= {"label": "data.label_column", "text": "data.text_columns"}  # short for Python calls
    by_name: dict[str, object] = {}
    for name, value in arguments.items():
        if name not in dotted:
            raise UnknownNameError("setting", name, dotted if "." in name else SHORT_NAMES)
        if by_name.get(dotted[name]) is None:
            by_name[dotted[name]] = value
        elif value is not None:
            raise SpecError(f"{name} and {dotted[name]} are one setting; pass one of them.")
    return by_name


def parse_duration(text: str) -> float:
    """Parse `7m30s`, `90s`, `2h` or `1d` into seconds, > 0; raises SpecError on anything else."""
    text = text.strip().lower()
    numbers = re.findall(r"([\d.]+)([dhms])", text) if _DURATION.fullmatch(text) else []
    seconds = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in numbers)
    if not seconds:
        raise SpecError(f"{text!r} is not a duration above 0 with a unit; write it like 7m30s, 90s or 2h.")
    return seconds


def parse_bytes(text: str) -> int:
    """Parse `2GiB` (of 1,024), `500MB` (of 1,000) or `123456B` into bytes, or raise SpecError."""
    with suppress(ValidationError):
        if not text.strip().isdecimal():
            return int(TypeAdapter(ByteSize).validate_python(text.strip()))
    raise SpecError(f"{text!r} is not an amount of memory with a unit; write it like 2GiB or 500MB.")


def _of_file(path: Path) -> Iterator[tuple[str, Any, str]]:
    """Yield the name, value and place of each setting in a file."""
    for topic, fields in read_yaml(path).items():
        if fields is None and topic in RunSpec.model_fields:
            continue  # a topic with everything below it commented out
        if not isinstance(fields, dict):
            raise UnknownNameError(f"setting ({path})", str(topic), SETTINGS)
        for field, value in fields.items():
            if (name := f"{topic}.{field}") not in SETTINGS:
                raise UnknownNameError(f"setting ({path})", name, SETTINGS)
            yield name, value, str(path)


def _of_environment(env: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    for variable in sorted(name for name in env if name.startswith("AUTOPEFT_")):
        if variable not in _VARIABLES:
            raise UnknownNameError("environment variable", variable, _VARIABLES)
        if env[variable].strip():
            yield _VARIABLES[variable], env[variable].strip(), variable


def _typed(name: str, value: Any) -> Any:
    """Convert a value to the type of its setting if that is safe; pydantic refuses what is left."""
    field = SETTINGS[name]
    is_list = get_origin(field.kind) is tuple
    if is_list and value is None:
        return []
    if name == "budget.requested" and value is not None:
        return str(value)
    if not isinstance(value, str):
        return value
    if not value.strip():  # such as an unset variable of a shell script
        raise SpecError("it is empty; give a value, or leave it out")
    if is_list:
        return [item.strip(" '\"") for item in value.strip("[] ").split(",")]
    if name.endswith("_seconds"):
        return parse_duration(value)
    if name.endswith("_bytes"):
        return parse_bytes(value)
    if field.kind in (int, float):
        with suppress(ValueError):
            return float(value)  # 1e3 is a whole number to pydantic
    return value
