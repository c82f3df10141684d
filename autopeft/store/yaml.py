"""YAML as people expect it: the numbers of YAML 1.2, `no` is a word, and no key twice.

PyYAML follows YAML 1.1: it reads `1e-4` as text, `no` as false, `12:30` as 750, and takes
the last of two equal keys silently. Each of these can change a learning rate unseen.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from autopeft.errors import SpecError, UnknownNameError
from autopeft.types import shortened

Model = TypeVar("Model", bound=BaseModel)

# The core schema of YAML 1.2.2, section 10.3.2: tag, pattern, first characters ("" is the empty scalar).
_CORE_SCHEMA = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)
_MOST_SHOWN = 60  # characters of a value in an error; heuristic
_FLOW_ITEMS, _FLOW_CHARACTERS = 8, 80  # heuristic: what reads well on one line


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        SpecError: The file is missing, unreadable, empty, not YAML or not a mapping, or has a key twice.
    """
    try:
        text = yaml_text(path)
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not UTF-8 text; it should be a YAML file.") from error
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror or error}.") from error
    return parse_yaml(text, source=str(path))


def yaml_text(path: Path | str) -> str:
    """Read the text of a YAML file in UTF-8."""
    return Path(path).read_text(encoding="utf-8-sig")


def parse_yaml(text: str, *, source: str) -> dict[str, Any]:
    """Parse YAML text that is a mapping; errors call it `source`.

    Raises:
        SpecError: The text is empty, not YAML or not a mapping, or has a key twice.
    """
    content = load_value(text, source=source)
    if not isinstance(content, dict):
        held = "is empty" if content is None else f"holds {_shown(content)}"
        raise SpecError(f"{source} {held}; it should hold `key: value` lines.")
    return content


def load_value(text: str, *, source: str) -> Any:
    """Parse one YAML document of any type, None if empty; raises SpecError for bad YAML or double keys."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        line = f" in line {mark.line + 1}" if mark else ""
        raise SpecError(f"{source} is not YAML: {reason}{line}.") from error


def write_yaml_text(content: Any) -> str:
    """Write plain content as YAML, keys in their order, so that `parse_yaml` reads it back exactly.

    Text that YAML 1.1 would misread is quoted too, so that other readers read the same.
    """
    options: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "default_flow_style": False}
    text: str = yaml.dump(content, Dumper=_Dumper, width=sys.maxsize, **options)
    return text


def validate(kind: type[Model], content: Any, *, source: str) -> Model:
    """Make a pydantic model of some content; types are strict (`"3"` is not a number).

    Raises:
        UnknownNameError: A key that the model does not have.
        SpecError: Values that are missing, of the wrong type or out of range.
    """
    try:
        return kind.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            if details["type"] == "extra_forbidden":
                *above, last = details["loc"]
                prefix = "".join(f"{part}." for part in above)
                names = [prefix + name for name in _fields_at(kind, above)]
                raise UnknownNameError(f"setting in {source}", f"{prefix}{last}", names) from error
        faults = "; ".join(f"{name} {fault}" for name, fault in faults_of(error))
        raise SpecError(f"{source} cannot be used: {faults}.") from error


def faults_of(error: ValidationError) -> list[tuple[str, str]]:
    """List each refused value with its fault: `("search.trials", "is 0; it should be greater …")`."""
    faults: dict[str, str] = {}
    for details in error.errors(include_url=False):
        # pydantic lists one fault per member of a union; the first suffices.
        name = ".".join(str(part) for part in details["loc"] if part not in ("bool", "int", "float", "str"))
        allowed = re.sub(r"^(Value error, |(Input|\w+) should )", "", details["msg"])
        is_missing = details["type"] == "missing"
        fault = "is missing" if is_missing else f"is {_shown(details['input'])}; it should {allowed}"
        faults.setdefault(name, fault)
    return list(faults.items())


class Inline(dict[str, Any]):
    """A mapping that `write_yaml_text` writes on one line, `{target: h.0.q, rank: 8}`."""


def _shown(value: Any) -> str:
    return shortened(repr(value), _MOST_SHOWN)


def _fields_at(kind: Any, location: Iterable[int | str]) -> Iterable[str]:
    """List the fields of the model at a location: `(adapters, 0)` is an item of the field `adapters`."""
    for part in location:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        if isinstance(part, int):
            kind = get_args(kind)[0]
        else:
            kind = get_args(kind)[1] if get_origin(kind) is dict else kind.model_fields[part].annotation
    return list(kind.model_fields)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's way to declare it

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            word = str(key.value)
            if word in seen:
                problem = f"the key {word!r} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(word)
        return super().construct_mapping(node, deep=deep)

    def read_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        # In YAML 1.2 a leading zero means nothing; PyYAML would read `010` as 8.
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def write_list(self, items: Any) -> yaml.Node:
        scalars = all(isinstance(item, str | int | float | None) for item in items)
        short = len(items) <= _FLOW_ITEMS and sum(len(str(item)) + 2 for item in items) <= _FLOW_CHARACTERS
        return self.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=scalars and short)

    def write_inline(self, items: Inline) -> yaml.Node:
        return self.represent_mapping("tag:yaml.org,2002:map", items, flow_style=True)

    def write_word(self, text: str) -> yaml.Node:
        # Other styles fold some line breaks (U+0085, U+2028) into plain ones.
        style = '"' if len(text.splitlines()) > 1 or not text.isprintable() else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


for _tag, _pattern, _initials in _CORE_SCHEMA:
    _name, _regexp = f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$")
    _Loader.add_implicit_resolver(_name, _regexp, _initials)
    _Dumper.add_implicit_resolver(_name, _regexp, _initials)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.read_int)
_Dumper.add_representer(list, _Dumper.write_list)
_Dumper.add_representer(tuple, _Dumper.write_list)
_Dumper.add_representer(str, _Dumper.write_word)
_Dumper.add_representer(Inline, _Dumper.write_inline)
