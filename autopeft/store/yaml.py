"""YAML in which `1e-4` is a number, which PyYAML reads as text, and no key is given twice."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from autopeft.errors import SpecError
from autopeft.types import shortened

Model = TypeVar("Model", bound=BaseModel)

_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")  # YAML 1.2.2, section 10.3.2
_MOST_SHOWN = 60  # characters of a value in an error; heuristic


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; raises SpecError if it is missing, damaged or anything else."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not UTF-8 text; it should be a YAML file.") from error
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror or error}.") from error
    return parse_yaml(text, source=str(path))


def parse_yaml(text: str, *, source: str) -> dict[str, Any]:
    """Parse YAML text that is a mapping, or raise a SpecError that names `source`."""
    try:
        content = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise SpecError(f"{source} is not YAML: {problem or error}{line}.") from error
    if not isinstance(content, dict):
        held = "is empty" if content is None else f"holds {_shown(content)}"
        raise SpecError(f"{source} {held}; it should hold `key: value` lines.")
    return content


def write_yaml_text(content: Any) -> str:
    """Format plain content as YAML, keys in their order."""
    text: str = yaml.dump(content, Dumper=_Dumper, width=sys.maxsize, sort_keys=False, allow_unicode=True)
    return text


def validate(kind: type[Model], content: Any, *, source: str) -> Model:
    """Make a pydantic model of some content, or raise SpecError; types are strict (`"3"` is not a number)."""
    try:
        return kind.model_validate_json(json.dumps(content, default=str), strict=True)
    except ValidationError as error:
        faults = "; ".join(f"{name} {fault}" for name, fault in faults_of(error))
        raise SpecError(f"{source} cannot be used: {faults}.") from error


def faults_of(error: ValidationError) -> list[tuple[str, str]]:
    """List each refused value with its fault: `("search.trials", "is 0; it should be greater …")`."""
    faults: dict[str, str] = {}
    for details in error.errors(include_url=False):
        # pydantic lists one fault per member of a union; the first suffices.
        name = ".".join(str(part) for part in details["loc"] if part not in ("bool", "int", "float", "str"))
        allowed = re.sub(r"^(Value error, |(Input|\w+) should )", "", details["msg"])
        fault = f"is {_shown(details['input'])}; it should {allowed}"
        if details["type"] == "missing":
            fault = "is missing"
        elif details["type"] == "extra_forbidden":
            fault = "is not a known key"
        elif details["type"] == "json_invalid":
            fault = "it is not JSON"
        faults.setdefault(name, fault)
    return list(faults.items())


class Inline(dict[str, Any]):
    """A mapping that `write_yaml_text` writes on one line, `{target: h.0.q, rank: 8}`."""


def _shown(value: Any) -> str:
    return shortened(repr(value), _MOST_SHOWN)


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that is given twice; PyYAML would take the last one."""
        seen = set[str]()
        for key, _ in node.value:
            if (word := str(key.value)) in seen:
                problem = f"the key {word!r} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(word)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def write_inline(self, items: Inline) -> yaml.Node:
        return self.represent_mapping("tag:yaml.org,2002:map", items, flow_style=True)


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Dumper.add_representer(Inline, _Dumper.write_inline)
