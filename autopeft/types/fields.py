"""How a setting is declared: one field with its default, help, group, short name and form.

Flags, environment variables, the keys of `run.yaml`, the arguments of the Python functions and the page of
settings are all read from these declarations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field

# The groups of `autopeft search --help`, in their order.
Group = Literal["Options", "Data", "Full run", "Search", "Machine", "Run"]
# How the flag is typed: once (a list with commas), once per item of a list, or as a path.
Form = Literal["single", "repeated", "path"]


class Topic(BaseModel):
    """Settings of one topic; they cannot change, and unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def setting(
    default: Any,
    help: str,
    group: Group,
    *,
    short: str = "",
    form: Form = "single",
    demo: Any = None,
    **limits: Any,
) -> Any:
    """Declare a field of a topic with all that flags, variables and documentation need.

    Args:
        default: The value if the user sets none.
        help: What the setting does, without a period; its choices and default are added.
        group: Group of the setting in the help.
        short: Name of the Python argument, and with hyphens the flag; empty for the field's name.
        form: How the flag is typed, see `Form`.
        demo: Default in the demo, a search without model and dataset; None for `default`. With these the
            demo takes less than eight minutes on two CPU cores.
        **limits: pydantic's constraints, such as `ge=1`.
    """
    about: dict[str, Any] = {"group": group, "short": short, "form": form, "demo": demo}
    return Field(default=default, description=help, json_schema_extra=about, **limits)


@dataclass(frozen=True, kw_only=True)
class SettingField:
    """One setting as `setting` declared it.

    `name` is dotted (`search.trials`). `kind` is the type of the value, without None. `choices` are the
    allowed words, empty for any value of the type.
    """

    name: str
    kind: Any
    choices: tuple[str, ...]
    default: Any
    demo: Any
    help: str
    group: Group
    short: str
    form: Form

    @property
    def flag(self) -> str:
        """The flag of `autopeft search`."""
        return "--" + self.short.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "AUTOPEFT_" + self.name.replace(".", "_").upper()

    @property
    def default_text(self) -> str:
        """The default for people, such as `24 (demo: 12)`; empty if the help itself says it."""
        if "Default: " in self.help:
            return ""
        usual, demo = self._shown(self.default), self._shown(self.demo)
        return f"{usual or 'none'} (demo: {demo})" if demo else usual

    @property
    def text(self) -> str:
        """The help and the default, without the choices, for a page that shows them next to the flag."""
        return f"{self.help}." + (f" Default {self.default_text}." if self.default_text else "")

    def _shown(self, value: object) -> str:
        if value is None or value is False or value == ():
            return ""
        unit = " s" if self.name.endswith("_seconds") else ""
        return (f"{value:g}" if isinstance(value, float) else str(value)) + unit


def settings_of(spec: type[BaseModel]) -> Mapping[str, SettingField]:
    """Collect the settings of all topics of a spec by dotted name, in the order of their declaration."""
    settings = {}
    for topic, topic_field in spec.model_fields.items():
        for short, field in topic_field.annotation.model_fields.items():  # type: ignore[union-attr]
            kind, about = field.annotation, field.json_schema_extra
            if get_origin(kind) in (Union, UnionType):
                (kind,) = (member for member in get_args(kind) if member is not type(None))
            item = get_args(kind)[0] if get_origin(kind) is tuple else kind
            settings[f"{topic}.{short}"] = SettingField(
                name=f"{topic}.{short}",
                kind=kind,
                choices=get_args(item) if get_origin(item) is Literal else (),
                default=field.default,
                help=field.description,
                **{**about, "short": about["short"] or short},
            )
    return settings
