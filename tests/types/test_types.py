from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from autopeft import types
from autopeft.types import (
    SETTINGS,
    SHORT_NAMES,
    Adapter,
    Plan,
    digest_of,
    from_json,
    to_json,
)
from autopeft.types.fields import Group

PLAN = Plan(
    adapters=(Adapter(method="lora", target="h.0.q", rank=4, scale=2.0, options=(("dora", True),)),),
    learning_rate=1e-3,
    trainable_params=72,
)
KINDS = {name: kind for name, kind in vars(types).items() if dataclasses.is_dataclass(kind)}


def records_of(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Records with every field drawn by its type."""
    names = {field.name for field in dataclasses.fields(kind)}
    hints = get_type_hints(kind).items()
    return st.builds(kind, **{name: drawn(hint) for name, hint in hints if name in names})


def drawn(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a type: finite numbers, short tuples; settings keep their defaults."""
    parts = get_args(hint)
    if hint is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if get_origin(hint) is tuple:
        of_any_length = st.lists(drawn(parts[0]), max_size=2).map(tuple)
        return of_any_length if parts[1] is ... else st.tuples(*map(drawn, parts))
    if get_origin(hint) in (Union, UnionType):
        return st.one_of(*map(drawn, parts))
    if dataclasses.is_dataclass(hint):
        return records_of(hint)
    # Python 3.10 takes dict[str, int] for a type, which issubclass refuses.
    is_topic = not parts and isinstance(hint, type) and issubclass(hint, BaseModel)
    return st.just(hint()) if is_topic else st.from_type(hint)


def through_text(record: Any) -> Any:
    """The record after a journey as JSON text."""
    return from_json(type(record), json.loads(json.dumps(to_json(record))))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@given(st.data())
def test_a_record_comes_back_from_json_text_as_it_was(kind: type[Any], data: st.DataObject) -> None:
    record = data.draw(records_of(kind))
    assert repr(through_text(record)) == repr(record)  # equal, and of equal types: True is no 1


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 2e-3},
        {"trainable_params": 73},
        {"adapters": ()},
        {"adapters": PLAN.adapters * 2},
        *(
            {"adapters": (dataclasses.replace(PLAN.adapters[0], **{name: value}),)}
            for name, value in {"method": "x", "target": "x", "rank": 5, "scale": 1.0, "options": ()}.items()
        ),
    ],
)
def test_every_part_of_a_plan_moves_its_digest(change: dict[str, Any]) -> None:
    other = dataclasses.replace(PLAN, **change)
    assert other.digest != PLAN.digest


def test_a_plan_that_knows_its_digest_is_stored_and_sent_as_before() -> None:
    fresh, used = (from_json(Plan, to_json(PLAN)) for _ in range(2))
    assert used.digest is used.digest  # computed once
    assert fresh == used == pickle.loads(pickle.dumps(used)) and hash(fresh) == hash(used)
    assert to_json(fresh) == to_json(used) and dataclasses.asdict(fresh) == dataclasses.asdict(used)


def test_a_digest_is_the_start_of_the_sha256_of_sorted_json() -> None:
    text = '{"a":[1,"é"],"b":null}'.replace("é", "\\u00e9")
    expected = hashlib.sha256(text.encode()).hexdigest()[:10]
    assert digest_of({"b": None, "a": [1, "é"]}) == digest_of({"a": [1, "é"], "b": None}) == expected


def test_every_setting_has_a_help_a_group_and_a_name_of_its_own() -> None:
    for field in SETTINGS.values():
        assert field.help and field.help[-1] != ".", field.name
        assert field.group in get_args(Group), field.name
    assert len(SHORT_NAMES) == len(SETTINGS)
    assert len({field.variable for field in SETTINGS.values()}) == len(SETTINGS)
