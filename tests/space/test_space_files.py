"""The files of search spaces: what is read, what is refused, and which part a filter keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from autopeft.errors import SpecError
from autopeft.plugins import Method, discover
from autopeft.space import (
    Space,
    learning_rates,
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


def test_a_method_without_its_own_range_takes_that_of_the_method() -> None:
    assert (
        learning_rates(load("default", known_methods=METHODS), "ia3", METHODS)
        == METHODS["ia3"].learning_rate_range
    )


@pytest.mark.parametrize(
    ("methods", "complaint"),
    [
        ("  lora: {placements: [all]}\n", "methods.lora.placements is not a known key"),
        ("  lora: {}\n  lora: {}\n", "'lora' is given twice in line 4"),
        ("  lara: {}\n", "no method named 'lara'; known: bitfit, .*Did you mean 'lora'"),
        ("  lora: {placement: [q+w]}\n", "role or role group .*named 'w'"),
        ("  lora: {placement: [atention]}\n", "Did you mean 'attention'"),
        ("  lora: {layer_share: [1.0, 0.5]}\n", r"layer_share is \[1\.0, 0\.5\].*low <= high"),
        ("  lora: {learning_rate: [0.0, 1e-3]}\n", r"learning_rate.0 is 0\.0; .*greater than 0"),
        ("  lora: {learning_rate: [1e-3, .inf]}\n", "learning_rate.1 is inf; it should be a finite number"),
        ("  lora: {learning_rate: 1e-3}\n", r"learning_rate is 0\.001"),
        ("  lora: {placement: [all, all]}\n", "placement is .*'all' is there twice"),
        ("  lora: {max_rank: 99999999999999999999}\n", "max_rank is .*less than or equal to"),
        ("  lora: {options: {dora: [2]}}\n", "no dora of lora .*named '2'"),
        ("  lora: {layer_share: [0.0, 1.0]}\n", "layer_share.* is 0.0; it should be greater than 0"),
        ("  lora: {layer_share: [0.5, 1.5]}\n", "is 1.5; it should be less than or equal to 1"),
        ("  lora: {placement: []}\n", "placement is .*at least 1 item"),
        ("  lora: {max_rank: 0}\n", "max_rank is 0"),
        ("  lora: {max_rank: '8'}\n", "max_rank is '8'"),
        ("  lora: {options: {dorra: [true]}}\n", "no option of lora .*named 'dorra'.*Did you mean 'dora'"),
        ("  lora: {options: {init: [orthogonl]}}\n", "no init of lora .*Did you mean 'orthogonal'"),
        ("  lora: {options: {init: []}}\n", "options.init is .*at least 1 item"),
        (
            "  lora: {select: [top]}\n",
            "select.* is 'top'; it should be 'last_layers', 'best_layers' or 'best_modules'",
        ),
        ("  ia3: {max_rank: 4}\n", "gives max_rank to ia3, which has no ranks"),
        ("  lora: {placement: [q+q]}\n", "placement is .*name each role once, unlike 'q.q'"),
        ("  lora: {placement: [all+q]}\n", "placement is .*no role next to all"),
        ("  lora: {placement: [q+v, v+q]}\n", "placement is .*'v.q' is there twice"),
    ],
)
def test_a_faulty_space_is_refused_with_the_fault(tmp_path: Path, methods: str, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        read(tmp_path, methods)


@pytest.mark.parametrize(
    ("mixes", "complaint"),
    [
        ("  both:\n  - {method: lora}\n", "mixes.both is .*at least 2 items"),
        ("  both:\n  - {method: lora}\n  - {method: iaa3}\n", "no method named 'iaa3'.*Did you mean 'ia3'"),
        (
            "  ia3:\n  - {method: lora}\n  - {method: ia3}\n",
            "calls a mix 'ia3', which is the name",
        ),
        ("  both:\n  - {method: lora, select: [top]}\n  - {method: ia3}\n", "select.0 is 'top'"),
        (
            "  both:\n  - {method: lora}\n  - {method: ia3, learning_rate: [1e-3, 1e-2]}\n",
            "a learning_rate in a later part of 'both'",
        ),
        *(
            (f"  {name}:\n  - {{method: lora}}\n  - {{method: ia3}}\n", "calls a mix .* Rename it")
            for name in ('""', "head", '"baseline: mine"', '"a\\nb"')
        ),
        ("  both:\n  - {method: vera}\n  - {method: vera}\n", "vera and vera, which share one state"),
    ],
)
def test_a_faulty_mix_is_refused_with_the_fault(tmp_path: Path, mixes: str, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        read(tmp_path, "  lora: {}\n", more=f"mixes:\n{mixes}")


LISTS = "  tagging: []\n  language: []\n  images: []\n  small: []\n"


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("{method: lara, rate: 0.5}", "no method named 'lara'; .*Did you mean 'lora'"),
        ("{method: lora}", "listed.classification.0.rate"),
        ("{method: lora, rate: 1.5}", r"rate is 1\.5; it should be less than or equal to 1"),
        ("{method: lora, rates: 0.5}", "listed.classification.0.rates is not a known key"),
        (
            "{method: lora, rate: 0.5, select: top}",
            "select is 'top'; it should be 'last_layers'",
        ),
        ("{method: lora, rate: 0.5, layer_share: 0}", "layer_share is 0"),
        ("{method: lora, rate: 0.5, placement: q+w}", "role or role group .*named 'w'"),
        ("{method: lora, rate: 0.5, options: {dorra: true}}", "no option of lora .*Did you mean 'dora'"),
        ("{method: lora, rate: 0.5, options: {init: orthogonl}}", "no init of lora .*Did you mean 'orthog"),
        ("{method: ia3, rate: 0.5, baseline: true}", "calls ia3 a baseline; only lora is one"),
    ],
)
def test_a_faulty_listed_plan_is_refused_with_the_fault(tmp_path: Path, entry: str, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        read(tmp_path, "  lora: {}\n", more=f"listed:\n  classification:\n  - {entry}\n{LISTS}")


@pytest.mark.parametrize(
    ("listed", "complaint"),
    [
        ("  classification: []\n", "no list for images, language, small, tagging under listed; add it"),
        (f"  classification: []\n{LISTS}  texts: []\n", "listed.texts"),
    ],
)
def test_a_space_has_one_list_for_each_family(tmp_path: Path, listed: str, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        read(tmp_path, "  lora: {}\n", more=f"listed:\n{listed}")


def test_a_space_without_listed_plans_takes_the_list_of_the_default_space(tmp_path: Path) -> None:
    assert read(tmp_path, "  ia3: {}\n").listed == load("default", known_methods=METHODS).listed


def test_every_listed_plan_of_the_default_space_has_evidence() -> None:
    lists = load("default", known_methods=METHODS).listed
    assert all(entry.evidence for entries in lists.values() for entry in entries)
    with_baseline = {family for family, entries in lists.items() if any(e.baseline for e in entries)}
    assert with_baseline == {*lists} - {"small"}


def test_a_space_without_methods_and_mixes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("about: nothing\n", encoding="utf-8")
    with pytest.raises(SpecError, match="names no method and no mix"):
        load(str(path), known_methods=METHODS)


def test_a_filter_keeps_a_mix_where_it_keeps_all_of_its_methods() -> None:
    assert load("default", known_methods=METHODS, only=("lora", "ia3")).arms == ("lora", "ia3")
    kept = load("default", known_methods=METHODS, only=("ln_tuning", "lora", "ia3"))
    assert list(kept.mixes) == ["lora+ia3+norms"]


def test_a_server_leaves_lora_without_dora_at_any_scale() -> None:
    everything = load("everything", known_methods=METHODS)
    asked = dict(everything.methods["lora"].options)
    served = servable(everything, ("vllm", "tgi", "llama.cpp"), METHODS)
    assert served.arms == ("lora",)
    assert asked["scale_rule"] == ("rslora", "constant")
    assert served.methods["lora"].options["scale_rule"] == asked["scale_rule"]
    assert asked["dora"] == (False, True) and served.methods["lora"].options["dora"] == (False,)


def test_a_space_that_no_server_reads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="Nothing of the search space is read by vllm"):
        servable(read(tmp_path, "  ia3: {}\n"), ("vllm",), METHODS)


@pytest.mark.parametrize(
    ("only", "complaint"), [("ia3", "has no method 'ia3'; it holds lora"), ("ix3", "'ix3'")]
)
def test_a_filter_for_an_absent_method_is_refused(only: str, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        load("lora_only", known_methods=METHODS, only=(only,))


def test_half_of_a_mix_is_refused_with_the_mix(tmp_path):
    mixes = "mixes:\n  both:\n  - {method: lora}\n  - {method: bitfit}\n"
    with pytest.raises(SpecError, match=r"no plan of bitfit alone; it mixes ia3; bitfit \+ lora. Name all"):
        read(tmp_path, "  ia3: {}\n", more=mixes, only=("bitfit",))


def test_options_of_a_space_are_the_values_of_the_method(tmp_path):
    """YAML's 1 equals true and 64.0 equals 64, but neither is what the method compares with."""
    space = read(tmp_path, "  lora: {options: {dora: [1]}}\n  vera: {options: {r: [64.0]}}\n")
    (dora,), (rank,) = (space.methods[name].options[o] for name, o in (("lora", "dora"), ("vera", "r")))
    assert dora is True and type(rank) is int
