"""Merged models and converted adapters against `peft`, transformers and numpy's singular values."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
import transformers
from toys.bases import AUTO_CLASSES
from toys.exports import halves, llama_cpp, logits_of, read_config, served, shake, trained, vllm
from toys.families import build

from autopeft.adapters import compile_plan
from autopeft.errors import SpecError
from autopeft.exports import read_weights
from autopeft.exports.parts.merging import merge
from autopeft.extension import ExportSource, discover
from autopeft.model import BaseModel, save_weights

EXPORTERS = discover("autopeft.exports")
MERGED, CONVERTED = EXPORTERS["merged"], EXPORTERS["converted-lora"]
ARCHITECTURES = ("bert", "gpt2", "llama", "llama-lm")
by_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def of_methods(base, make_plan, *names):
    """The methods in turn, each at the sites that it fits."""
    chosen, taken = [], set()
    plans = [make_plan(base, name).adapters for name in names]
    for index, adapters in enumerate(plans):
        share = [a for i, a in enumerate(adapters) if i % len(names) == index and a.site not in taken]
        taken |= {a.site for a in share}
        chosen += share
    return make_plan(base, chosen)


def load(architecture, folder):
    auto_class = AUTO_CLASSES.get(architecture, "AutoModelForSequenceClassification")
    return getattr(transformers, auto_class).from_pretrained(folder)


def close(seen, expected):
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)


@by_architecture
@pytest.mark.parametrize("names", [("lora",), ("lora", "ia3", "ln_tuning"), ("vera", "lora")], ids=str)
def test_transformers_alone_reads_the_merged_model(architecture, names, make_base, make_plan, tmp_path):
    base = make_base(architecture)
    toy = trained(base, of_methods(base, make_plan, *names), tmp_path / "weights")
    MERGED.export(toy.source, tmp_path / "out")
    module = load(architecture, tmp_path / "out")
    close(logits_of(module), toy.logits)
    assert set(module.state_dict()) == set(toy.raw.state_dict())
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_an_image_model_that_also_knows_words_is_merged(make_plan, tmp_path):
    """The words are those of the texts' tower, which the image classifier does not have."""
    base = BaseModel(build("siglip"), None, name="siglip", untrained=frozenset())
    plan, folder = make_plan(base, "lora"), tmp_path / "weights"
    configs = compile_plan(plan, discover("autopeft.methods")).configs
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    raw = copy.deepcopy(base.module)
    with base.attached(configs, plan=plan, task_type=None, seed=0) as model, torch.no_grad():
        shake(model, seed=0)
        expected = model.eval()(pixel_values=pixels).logits
        save_weights(model, ("default",), folder)
    source = ExportSource(
        configs=configs,
        weights=(read_weights(folder),),
        base_model="siglip",
        base=raw,
        head=base.head_names,
        task_type=None,
    )
    with torch.no_grad():
        close(merge(source)(pixel_values=pixels).logits, expected)


def test_merged_model_of_the_head_alone_has_the_trained_head(bert, make_plan, tmp_path):
    toy = trained(bert, make_plan(bert), tmp_path / "weights")
    MERGED.export(toy.source, tmp_path / "out")
    close(logits_of(load("bert", tmp_path / "out")), toy.logits)


def test_merged_folder_has_the_tokenizer(bert, make_plan, tokenizer, tmp_path):
    toy = trained(bert, make_plan(bert, "lora"), tmp_path / "weights")
    MERGED.export(toy.source, tmp_path / "out")
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert read("a good film")["input_ids"] == tokenizer("a good film")["input_ids"]


def test_weights_of_another_adapter_are_refused_when_merging(bert, make_plan, tmp_path):
    toy = trained(bert, make_plan(bert, "lora", rank=2), tmp_path / "weights")
    other = trained(bert, make_plan(bert, "lora", rank=3), tmp_path / "other")
    with pytest.raises(SpecError, match=r"does not fit toy/model.*pass --model"):
        MERGED.export(replace(toy.source, weights=other.source.weights), tmp_path / "out")
    with pytest.raises(SpecError, match="is missing from the weights"):
        MERGED.export(replace(toy.source, weights=({},), base=copy.deepcopy(toy.raw)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_stays_beside_the_weights_is_refused_by_name(make_base, tmp_path):
    source = ExportSource(
        configs=(peft.LilyConfig(target_modules=["q_proj"]),),
        base_model="x",
        task_type="CAUSAL_LM",
        weights=({},),
        base=make_base("llama-lm").module,
    )
    for exporter in (MERGED, CONVERTED):
        with pytest.raises(SpecError, match="LILY is no change of the base model's weights"):
            exporter.export(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def conversion_of(folder):
    return json.loads((folder / "conversion.json").read_text(encoding="utf-8"))


@by_architecture
def test_lora_converts_to_itself(architecture, make_base, make_plan, tmp_path):
    base = make_base(architecture)
    toy = trained(base, make_plan(base, "lora", rank=3), tmp_path / "weights")
    CONVERTED.export(replace(toy.source, rank=3), tmp_path / "out")
    assert conversion_of(tmp_path / "out")["relative_error"] < 1e-5
    assert {site["rank"] for site in conversion_of(tmp_path / "out")["sites"].values()} == {3}
    for reader in (vllm, llama_cpp):
        torch.testing.assert_close(served(toy.raw, tmp_path / "out", reader), toy.logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("names", [("ia3",), ("oft",), ("lora", "miss", "lokr"), ("hira", "shira")], ids=str)
def test_any_change_of_linear_maps_is_served_exactly_at_full_energy(names, make_base, make_plan, tmp_path):
    base = make_base("llama-lm")
    toy = trained(base, of_methods(base, make_plan, *names), tmp_path / "weights")
    CONVERTED.export(replace(toy.source, energy=1.0), tmp_path / "out")
    torch.testing.assert_close(served(toy.raw, tmp_path / "out", vllm), toy.logits, rtol=0, atol=1e-3)
    assert conversion_of(tmp_path / "out")["relative_error"] < 1e-4


def test_dora_is_served_through_a_conversion(make_base, make_plan, tmp_path):
    base = make_base("llama-lm")
    toy = trained(base, make_plan(base, "lora", dora=True), tmp_path / "weights")
    CONVERTED.export(replace(toy.source, energy=1.0), tmp_path / "out")
    torch.testing.assert_close(served(toy.raw, tmp_path / "out", vllm), toy.logits, rtol=0, atol=1e-3)


def changes(toy):
    """Site -> change of its weight in float64, by `peft`'s own merge."""
    merged = peft.PeftModel.from_pretrained(copy.deepcopy(toy.raw), toy.folder).merge_and_unload()
    before = {name: module.weight for name, module in toy.raw.named_modules() if hasattr(module, "weight")}
    after = dict(merged.named_modules())
    pairs = {name: (after[name].weight - weight).detach().double().numpy() for name, weight in before.items()}
    return {name: change for name, change in pairs.items() if change.any()}


@pytest.mark.parametrize("bound", [{"rank": 2}, {"energy": 0.9}, {}], ids=str)
def test_ranks_and_errors_are_those_of_the_singular_values(bound, make_base, make_plan, tmp_path):
    base = make_base("llama-lm")
    toy = trained(base, make_plan(base, "ia3"), tmp_path / "weights")
    CONVERTED.export(replace(toy.source, **bound), tmp_path / "out")
    seen, lost, whole = conversion_of(tmp_path / "out"), 0.0, 0.0
    expected = changes(toy)
    assert set(seen["sites"]) == set(expected)
    for site, change in expected.items():
        squares = np.linalg.svd(change, compute_uv=False) ** 2
        kept = np.cumsum(squares) / squares.sum()
        rank = bound.get("rank") or int(np.searchsorted(kept, bound.get("energy", 0.99))) + 1
        assert seen["sites"][site]["rank"] == rank
        assert seen["sites"][site]["relative_error"] == pytest.approx((1 - kept[rank - 1]) ** 0.5, abs=1e-5)
        lost, whole = lost + squares[rank:].sum(), whole + squares.sum()
    assert seen["relative_error"] == pytest.approx((lost / whole) ** 0.5, abs=1e-5)
    assert read_config(tmp_path / "out")["r"] == max(site["rank"] for site in seen["sites"].values())


def test_notes_tell_the_error_in_total_and_the_worst_site(make_base, make_plan, tmp_path):
    base = make_base("llama-lm")
    toy = trained(base, make_plan(base, "oft"), tmp_path / "weights")
    note, *_ = CONVERTED.export(replace(toy.source, rank=1), tmp_path / "out")
    seen = conversion_of(tmp_path / "out")
    worst = max(seen["sites"], key=lambda site: seen["sites"][site]["relative_error"])
    assert f"{seen['relative_error']:.2e} in total" in note
    assert worst in note
    assert len(halves(tmp_path / "out")) == len(seen["sites"])


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("ln_tuning", "LN_TUNING trains the weights of norms"),
        ("bitfit", "BEFT trains biases"),
        ("ia3", r"cannot hold the change of \S+bias.*which IA3 made; use --to merged"),
    ],
)
def test_what_is_no_change_of_linear_maps_is_refused(method, reason, bert, make_plan, tmp_path):
    for name, parameter in bert.module.named_parameters():  # zero in a fresh model: nothing to scale
        parameter.data += 0.1 * name.endswith("bias")
    toy = trained(bert, make_plan(bert, method), tmp_path / "weights")
    with pytest.raises(SpecError, match=reason):
        CONVERTED.export(toy.source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_adapter_that_changed_nothing_is_refused(make_base, tmp_path):
    base = make_base("llama-lm")
    model = peft.get_peft_model(copy.deepcopy(base.module), peft.LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "weights")
    source = ExportSource(
        configs=(peft.LoraConfig(target_modules=["q_proj"]),),
        base_model="x",
        task_type="CAUSAL_LM",
        weights=(read_weights(tmp_path / "weights"),),
        base=base.module,
    )
    with pytest.raises(SpecError, match="No linear map differs"):
        CONVERTED.export(source, tmp_path / "out")
