"""The part of a space that fits a model and a budget, and why the rest is left out."""

from __future__ import annotations

from typing import cast

import pytest
from toys import architectures as model_toys
from toys.specs import run_spec

from autopeft.errors import TargetError
from autopeft.setup.feasible import fit_to_budget
from autopeft.space import MethodSpace, Space

SPEC, BASE = run_spec(budget="5000"), model_toys.skeleton("bert", "SEQ_CLS")


def space(**methods: MethodSpace) -> Space:
    return Space(about="", methods=cast("dict[str, MethodSpace]", methods))


def test_a_space_whose_placement_has_no_target_is_refused() -> None:
    with pytest.raises(TargetError, match=r"lora .* placement"):
        fit_to_budget(SPEC, BASE, space(lora=MethodSpace(placement=("norm",))))


def test_a_placement_without_a_fitting_target_is_left_out() -> None:
    feasible, _ = fit_to_budget(SPEC, BASE, space(lora=MethodSpace(placement=("norm", "q+v"))))
    assert feasible.methods["lora"].placement == ("q+v",)
