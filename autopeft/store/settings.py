"""Settings from four places, the later over the earlier: defaults, file, environment, flags."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, get_origin

from pydantic import ValidationError

from autopeft import budget
from autopeft.errors import SpecError, UnknownNameError
from autopeft.plugins import allow_own_function
from autopeft.store.yaml import faults_of, listed, load_value, read_yaml
from autopeft.types import SETTINGS, SHORT_NAMES, RunSpec, with_setting
from autopeft.types.fields import SettingField

# Settings that may name a local file, which a resumed or repeated run loads again, maybe from another folder.
SOURCES = ("model.id", "data.source", "search.baseline")
_PATHS = (*SOURCES, "search.space", "output.out")
_PAGE = "docs/settings.md"  # lists the name and the flag of every setting
_VARIABLES = {field.variable: field.name for field in SETTINGS.values()}
_UNIT_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
# 2GiB, 500MB, .5k, 64b: a number, the letter of the power, i for powers of 1,024.
_BYTES = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(?:([kmgt])(i?)b?|b)", re.ASCII)
_GROUPED = re.compile(r"\d{1,3}(?:(?:_\d{3})+|(?:,\d{3})+)", re.ASCII)
_LONGEST = 60  # characters of an amount of memory; longer ones are refused; chosen by hand
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>\d+(?:\.\d+)?){unit})?" for unit in _UNIT_SECONDS), re.ASCII)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Entry:
    """A value that the user set; `name` is dotted, and `origin` names the place for errors.

    `is_text`: the value is text to parse. `is_typed`: it is from a flag or an argument of this call.
    """

    name: str
    value: Any
    origin: str
    is_text: bool = False
    is_typed: bool = False


def resolve_settings(
    *,
    config: Path | None,
    env: Mapping[str, str],
    flags: Mapping[str, object],
    assignments: Sequence[str],
    origin: str = "flag",
) -> tuple[RunSpec, frozenset[str]]:
    """Resolve the settings of a run, and name those that the user set.

    Args:
        config: YAML file, nested by topic (`search: {trials: 30}`), or None.
        env: Environment; `AUTOPEFT_SEARCH_TRIALS=30` is read, an empty value counts as not given.
        flags: Dotted name -> value of the command line's flags; None means not given.
        assignments: Values of `--set`, such as `search.trials=30`; a flag of the same setting wins.
        origin: What errors call the place of `flags`; `flag` is the flag. Only flags have numbers as text.

    Returns:
        The settings, and the dotted names (`search.trials`) that any of the four places set.

    Raises:
        UnknownNameError: A topic, setting or `AUTOPEFT_` variable that does not exist.
        SpecError: Values of the wrong type or out of range; all are named with their place.
    """
    entries = {
        entry.name: entry
        for entry in chain(
            _from_file(config) if config else (),
            _from_texts(env, assignments),
            _from_flags(flags, origin),
        )
    }
    content: dict[str, dict[str, Any]] = {}
    faults = []
    for name, entry in entries.items():
        if entry.origin in env:  # it may be of another day
            log.info("%s sets %s to %s.", entry.origin, name, entry.value)
        topic, _, field = name.partition(".")
        try:
            content.setdefault(topic, {})[field] = _parsed(entry)
        except SpecError as error:
            faults.append(f"{name} ({entry.origin}): {str(error).rstrip('.')}")
    try:
        # Strict, so that `trials: true` is not 1; from JSON, whose lists may become tuples.
        spec = RunSpec.model_validate_json(json.dumps(content, default=str), strict=True)
    except ValidationError as error:
        for name, fault in faults_of(error):
            setting = ".".join(name.split(".")[:2])  # `data.text_columns.0` is an item of a setting
            faults.append(f"{name} ({entries[setting].origin}) {fault}")
    if faults:
        raise SpecError(f"These settings cannot be used: {listed(faults)}.")
    try:
        budget.check(spec.budget.requested)
    except SpecError as error:
        budget_entry = entries.get("budget.requested")
        if budget_entry is None or budget_entry.is_typed:
            raise
        raise SpecError(f"budget.requested ({budget_entry.origin}): {error}") from error
    for name in _PATHS:
        source = attrgetter(name)(spec)
        if name not in entries or source is None:
            continue
        if name == "output.out":  # a run directory may be moved, so that its path stays as it is
            source = os.path.expanduser(source)  # noqa: PTH111 - the other one raises where no such user is
        elif name != "search.space" or is_path_of_space(source):  # shipped spaces stay names
            source = whole_path(source)
        spec = with_setting(spec, name, source)
    for name in ("task.metric", "search.evaluate"):
        if name in entries and entries[name].origin != str(config):
            allow_own_function(attrgetter(name)(spec))
    return spec, frozenset(entries)


def is_path_of_space(name: str) -> bool:
    """Whether the name of a search space is a path, and not that of a space that autopeft ships.

    Example:
        >>> is_path_of_space("mine.yaml"), is_path_of_space("default")
        (True, False)
    """
    return name.endswith((".yaml", ".yml")) or "/" in name


def whole_path(source: str) -> str:
    """Make the paths of existing files absolute, so that a run finds them from any folder.

    Several files may be separated by commas. Names that are no files, such as hub ids, stay as they are.
    Links are not followed, since their names may tell the format of a file.
    """
    words = [source] if _is_there(source) else [word.strip() for word in source.split(",") if word.strip()]
    if not words or not all(map(_is_there, words)):
        return source
    return ",".join(str(Path(word).expanduser().absolute()) for word in words)


def _is_there(path: str) -> bool:
    with suppress(OSError, RuntimeError, ValueError):  # too long, no such home, or a null character
        return bool(path) and Path(path).expanduser().exists()
    return False


def by_dotted_name(settings: Mapping[str, object]) -> dict[str, object]:
    """Replace the short names of settings by their dotted names; a value of None counts as not set.

    Raises:
        UnknownNameError: No setting has this name.
        SpecError: A setting has two values, by its short and its dotted name.
    """
    dotted = {name: field.name for name, field in SHORT_NAMES.items()} | {name: name for name in SETTINGS}
    dotted |= {"label": "data.label_column", "text": "data.text_columns"}  # short for Python calls
    for name in settings:
        if name not in dotted:
            raise UnknownNameError("setting", name, dotted if "." in name else SHORT_NAMES, listed_in=_PAGE)
    by_name: dict[str, object] = {}
    spellings: dict[str, str] = {}
    for name, value in settings.items():
        if value is None:
            by_name.setdefault(dotted[name], None)
        elif dotted[name] in spellings:
            raise SpecError(f"{spellings[dotted[name]]} and {name} are one setting; pass one of them.")
        else:
            by_name[dotted[name]], spellings[dotted[name]] = value, name
    return by_name


def parse_duration(text: str) -> float:
    """Parse `7m30s`, `90s`, `2h` or `1d` into seconds, > 0; raises SpecError on anything else."""
    match = _DURATION.fullmatch(text.strip().lower())
    parts = match.groupdict(default="0") if match else {}
    seconds = sum(float(number) * _UNIT_SECONDS[unit] for unit, number in parts.items())
    if not 0 < seconds < math.inf:
        raise SpecError(f"{text!r} is not a duration above 0 with a unit; write it like 7m30s, 90s or 2h.")
    return seconds


def parse_bytes(text: str) -> int:
    """Parse `2GiB` (of 1,024), `500MB` (of 1,000) or `123456B` into bytes, >= 1, or raise SpecError."""
    match = _BYTES.fullmatch(text.strip().lower())
    n_bytes = 0
    if match is not None and len(text) <= _LONGEST:
        n_bytes = int(Fraction(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " "))
    if n_bytes < 1:
        raise SpecError(
            f"{text[:_LONGEST]!r} is not an amount of memory with a unit; write it like 2GiB or 500MB."
        )
    return n_bytes


def number_in(text: str, *, source: str) -> Any:
    """Parse a number, such as 1,000 or 1_000; parse any other text as YAML.

    `source` names the origin of the text for an error.

    Example:
        >>> number_in("1,000", source="--trials"), number_in("1e3", source="--trials")
        (1000, 1000.0)
    """
    return load_value(re.sub("[_,]", "", text) if _GROUPED.fullmatch(text) else text, source=source)


def _require_setting(name: str, origin: str) -> str:
    if name not in SETTINGS:
        raise UnknownNameError(f"setting ({origin})", name, SETTINGS, listed_in=_PAGE)
    return name


def _from_file(path: Path) -> Iterator[_Entry]:
    """Yield the settings of a file; raises SpecError for a plan, a search space, or an unknown name."""
    content = read_yaml(path)
    if "schema_version" in content:  # which plans and search spaces have, and settings have not
        kind, places = ("plan", "--plan of `autopeft train`, or to --baseline of a search")
        if "base_model" not in content:
            kind, places = ("search space", "--space")
        raise SpecError(
            f"{path} is a {kind}, and should hold settings, as a run's run.yaml; pass it to {places}."
        )
    for topic, fields in content.items():
        if topic in RunSpec.model_fields and fields is None:
            continue  # a topic with everything below it commented out
        if not isinstance(fields, dict):
            if topic not in RunSpec.model_fields:
                _require_setting(str(topic), str(path))
            raise SpecError(
                f"{path}: {topic} is {fields!r}; it should hold settings, one `name: value` a line."
            )
        for field, value in fields.items():
            yield _Entry(_require_setting(f"{topic}.{field}", str(path)), value, str(path))


def _from_texts(env: Mapping[str, str], assignments: Sequence[str]) -> Iterator[_Entry]:
    """Yield the settings in environment variables, then those of `--set`, as text to parse."""
    for variable in sorted(name for name in env if name.startswith("AUTOPEFT_")):
        if variable not in _VARIABLES:
            raise UnknownNameError("environment variable", variable, _VARIABLES, listed_in=_PAGE)
        if env[variable].strip():
            yield _Entry(_VARIABLES[variable], env[variable], variable, is_text=True)
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise SpecError(f"--set {assignment} has no value; write it like --set search.trials=30.")
        yield _Entry(_require_setting(name.strip(), "--set"), value, "--set", is_text=True)


def _from_flags(flags: Mapping[str, object], origin: str) -> Iterator[_Entry]:
    for name, value in flags.items():
        if value is not None:
            field = SETTINGS[_require_setting(name, origin)]
            is_number = origin == "flag" and field.kind in (int, float)
            is_number = is_number and isinstance(value, str) and bool(value.strip())
            is_number = is_number and not name.endswith(("_seconds", "_bytes"))  # their flags name no unit
            place = (field.flag if origin == "flag" else None) or origin
            yield _Entry(name, value, place, is_text=is_number, is_typed=True)


def _parsed(entry: _Entry) -> Any:
    """Convert a value to the type of its setting if that is safe; raises SpecError for a value of no use."""
    field = SETTINGS[entry.name]
    value = _read_text(entry.value.strip(), field, entry.origin) if entry.is_text else entry.value
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a number of NumPy
        value = value.item()
    if isinstance(value, set | frozenset):
        raise SpecError(f"{value!r} is a set, which has no order; pass a list")
    if value is None and get_origin(field.kind) is tuple:
        return []
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{value} is not finite")
    if field.kind is int and isinstance(value, float) and value.is_integer():  # 1e3, 12.0
        return int(value)
    if entry.name == "budget.requested" and type(value) in (int, float):
        return str(int(value)) if value == int(value) else str(value)
    for text in value if isinstance(value, list | tuple) else (value,):
        if isinstance(text, str) and any("\ud800" <= character <= "\udfff" for character in text):
            raise SpecError(f"{text!a} is no UTF-8 text; rename it")
    if not isinstance(value, str):
        return value
    is_list = get_origin(field.kind) is tuple
    if entry.is_typed and not value.strip(" ,[]" if is_list or field.form == "auto" else None):
        raise SpecError(f"{value!r} names nothing; give a value, or leave it out")
    if is_list and value.startswith("[") != value.endswith("]"):
        raise SpecError(f"{value!r} has one bracket of two; separate names by commas, without brackets")
    if is_list:
        items = value.removeprefix("[").removesuffix("]").split(",")
        return [item.strip(" '\"") for item in items if item.strip()]
    if field.form == "auto":
        return None if value == "auto" else load_value(value, source=entry.origin)
    if entry.name.endswith("_seconds"):
        return parse_duration(value)
    return parse_bytes(value) if entry.name.endswith("_bytes") else value


def _read_text(text: str, field: SettingField, origin: str) -> Any:
    """Parse the text of a variable or of `--set` as YAML; a setting that is text or a list stays text."""
    is_list = get_origin(field.kind) is tuple
    if (field.accepts_none or is_list) and text in ("", "~", "null"):
        return None
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if is_list or (field.kind is str and not is_quoted):
        return text  # as it stands: `0012345` may be a commit, `C:\data` a path
    return number_in(text, source=origin) if field.kind is int else load_value(text, source=origin)
