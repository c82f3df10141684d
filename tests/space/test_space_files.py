"""The files of search spaces: what is read, what is refused, and which part a filter keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from autopeft.errors import SpecError
from autopeft.plugins import Method, discover
from autopeft.space import (
    Space,
    load,
    names,
    servable,
)

METHODS: Mapping[str, Method] = discover("autopeft.methods")


def read(tmp_path: Path, methods: str, *, more: str = "", only: tuple[str, ...] = ()) -> Space:
    path = tmp_path / "mine.yaml"
    path.write_text(f"about: mine\n{more}methods:\n{methods}", encoding="utf-8")
    return load(str(path), known_methods=METHODS, only=only)


@pytest.mark.parametrize("name", names())
def test_every_shipped_space_loads_and_has_a_description(name: str) -> None:
    space = load(name, known_methods=METHODS)
    assert space.about and set(space.methods) <= set(METHODS)


def test_the_space_of_everything_has_every_method() -> None:
    assert set(load("everything", known_methods=METHODS).methods) == set(METHODS)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("methods: {lora: {placements: [all]}}", "placements"),
        ("methods: {lara: {}}", "Did you mean 'lora'"),
        ("methods: {lora: {placement: [q+w]}}", "'w'"),
        ("methods: {lora: {layer_share: [1.0, 0.5]}}", "layer_share"),
        ("methods: {lora: {options: {dorra: [true]}}}", "Did you mean 'dora'"),
        ("methods: {lora: {options: {init: [orthogonl]}}}", "Did you mean 'orthogonal'"),
        ("mixes: {both: [{method: lora}]}", "both"),
        ("mixes: {both: [{method: lora}, {method: iaa3}]}", "Did you mean 'ia3'"),
        ("methods: {lora: {}}\nlisted: {images: [{method: lara, rate: 0.5}]}", "Did you mean 'lora'"),
        ("methods: {lora: {}}\nlisted: {images: [{method: lora}]}", "listed.images.0.rate"),
        ("methods: {lora: {}}\nlisted: {images: [{method: lora, rate: 0.5, placement: q+w}]}", "'w'"),
        ("methods: {}", "no method"),
    ],
)
def test_a_faulty_space_is_refused_with_the_fault(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"about: mine\n{text}\n", encoding="utf-8")
    with pytest.raises(SpecError, match=word):
        load(str(path), known_methods=METHODS)


def test_families_that_a_space_does_not_list_have_the_list_of_the_default_space(tmp_path: Path) -> None:
    default = load("default", known_methods=METHODS).listed
    assert read(tmp_path, "  ia3: {}\n").listed == default
    own = read(tmp_path, "  ia3: {}\n", more="listed:\n  language: [{method: ia3, rate: 0.5}]\n").listed
    assert [entry.method for entry in own["language"]] == ["ia3"]
    assert own["images"] == default["images"]


def test_every_listed_plan_of_the_default_space_has_evidence() -> None:
    lists = load("default", known_methods=METHODS).listed
    assert all(entry.evidence for entries in lists.values() for entry in entries)
    with_baseline = {family for family, entries in lists.items() if any(e.baseline for e in entries)}
    assert with_baseline == {*lists} - {"small"}


def test_a_filter_keeps_a_mix_where_it_keeps_all_of_its_methods() -> None:
    assert load("default", known_methods=METHODS, only=("lora", "ia3")).arms == ("lora", "ia3")
    kept = load("default", known_methods=METHODS, only=("ln_tuning", "lora", "ia3"))
    assert list(kept.mixes) == ["lora+ia3+norms"]


def test_a_server_leaves_lora_without_dora_at_any_scale() -> None:
    everything = load("everything", known_methods=METHODS)
    asked = dict(everything.methods["lora"].options)
    served = servable(everything, ("vllm", "sglang", "llama.cpp"), METHODS)
    assert served.arms == ("lora",)
    assert asked["scale_rule"] == ("rslora", "constant")
    assert served.methods["lora"].options["scale_rule"] == asked["scale_rule"]
    assert asked["dora"] == (False, True) and served.methods["lora"].options["dora"] == (False,)


def test_a_space_that_no_server_reads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="vllm"):
        servable(read(tmp_path, "  ia3: {}\n"), ("vllm",), METHODS)


@pytest.mark.parametrize("only", ["ia3", "ix3"])
def test_a_filter_for_an_absent_method_is_refused(only: str) -> None:
    with pytest.raises(SpecError, match=only):
        load("lora_only", known_methods=METHODS, only=(only,))


def test_half_of_a_mix_is_refused(tmp_path: Path) -> None:
    mixes = "mixes:\n  both:\n  - {method: lora}\n  - {method: bitfit}\n"
    with pytest.raises(SpecError, match="bitfit"):
        read(tmp_path, "  ia3: {}\n", more=mixes, only=("bitfit",))
