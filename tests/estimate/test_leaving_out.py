"""What `count` leaves out is decided by counted kernels, before a model is built where that is sure."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig

from autopeft import model
from autopeft.commands import EstimateRequest, count_step, estimate_step
from autopeft.estimate import Setup, UnknownStepError, by_name, describe
from autopeft.estimate.fake_tensors import SlowReplayError
from autopeft.estimate.scaling import MemoryModel
from autopeft.extension import discover
from autopeft.model import load_skeleton
from autopeft.model.checkpoint_source import is_built_by
from autopeft.records import ModelSpec

METHODS, TASKS = discover("autopeft.methods"), discover("autopeft.tasks")
SIZES = {"d_model": 16, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2, "d_kv": 8}
WORDS = ("load_skeleton", "attach_without_weights", "_measured")


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with a decoder and twelve experts, whose layers are all replayed."""
    folder: Path = tmp_path_factory.mktemp("switch")
    kind = "SwitchTransformersForConditionalGeneration"
    config = transformers.SwitchTransformersConfig(
        **SIZES, num_experts=3, vocab_size=50, architectures=[kind]
    )
    config.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("llama")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2}
    config = transformers.LlamaConfig(**sizes, vocab_size=50, architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    return folder


def calls_of(work: Any) -> tuple[Any, Counter[str]]:
    """What a call gives, and how often it called some functions of autopeft by their names."""
    counter: Counter[str] = Counter()

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_name in WORDS and "autopeft" in frame.f_code.co_filename:
            counter[frame.f_code.co_name] += 1

    sys.setprofile(note)
    try:
        return work(), counter
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("word", ["lora_r2", "full"])
def test_a_step_that_is_left_out_is_not_begun_and_the_skeleton_is_built_once(switch: Path, word: str) -> None:
    counted, calls = calls_of(lambda: count_step(word, model_id=str(switch), revision=None, max_kernels=99))
    assert counted.step is None
    assert "left out, since its replay takes more than 99 kernels" in counted.reason
    assert calls == Counter(load_skeleton=1, attach_without_weights=int(word != "full"))
    with torch.device("meta"):
        config = transformers.SwitchTransformersConfig.from_pretrained(switch)
        plain = transformers.SwitchTransformersForConditionalGeneration(config)
    if word == "full":
        assert counted.count.trainable_params == sum(p.numel() for p in plain.parameters())


def test_a_config_is_attached_once_to_be_counted_and_once_for_each_replay(
    llama: Path, tmp_path: Path
) -> None:
    LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM").save_pretrained(tmp_path)
    counted, calls = calls_of(lambda: count_step(str(tmp_path), model_id=str(llama), revision=None))
    assert counted.step is not None
    assert counted.count.trainable_params == 6 * 4 * 2 * 32
    # One skeleton is counted, one described, and two of few layers are replayed.
    assert calls == Counter(load_skeleton=4, attach_without_weights=1, _measured=2)


@pytest.mark.parametrize("word", ["lora_r4", "full", "ia3"])
def test_the_bound_is_that_of_the_kernels_and_the_forecast_is_below_it(llama: Path, word: str) -> None:
    setup = Setup(model=ModelSpec(id=str(llama)), dtype=torch.bfloat16)
    traced = describe(by_name(word, METHODS), setup, methods=METHODS, tasks=TASKS).traced
    free = MemoryModel(traced=traced)
    free.at(2, 16)
    n_kernels = max(each._results._n_calls for each in free.replays.values())
    assert MemoryModel(traced=replace(traced, max_kernels=n_kernels)).at(2, 16) == free.at(2, 16)
    with pytest.raises(SlowReplayError, match=f"more than {n_kernels - 1:,} kernels"):
        MemoryModel(traced=replace(traced, max_kernels=n_kernels - 1)).at(2, 16)


def test_what_lora_cannot_adapt_is_one_note_of_a_method_and_none_of_a_config(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    experts = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 8}
    config = transformers.DeepseekV3Config(
        **sizes, **experts, vocab_size=50, architectures=["DeepseekV3ForCausalLM"]
    )
    config.save_pretrained(tmp_path)
    LoraConfig(r=2, target_modules=["o_proj"], task_type="CAUSAL_LM").save_pretrained(tmp_path / "adapter")
    with caplog.at_level("INFO", logger="autopeft"):
        counted = [
            count_step(str(word), model_id=str(tmp_path), revision=None, max_kernels=9)
            for word in ("lora_r2", tmp_path / "adapter")
        ]
    told = [[note for note in each.count.notes if "takes them for experts" in note] for each in counted]
    assert [len(notes) for notes in told] == [1, 0]
    assert "takes them for experts" not in caplog.text


def test_a_step_that_cannot_be_told_comes_with_what_is_trained(llama: Path) -> None:
    request = EstimateRequest(trained="lora_r4", model_id=str(llama), max_length=10**6)
    with pytest.raises(UnknownStepError, match="takes 2,048 at most") as caught:
        estimate_step(request)
    assert not caught.value.is_slow
    assert caught.value.described.count.trainable_params == 6 * 4 * (8 * 32 + 3 * (32 + 64))


def test_layers_whose_kinds_follow_from_their_number_can_be_left_out(tmp_path: Path) -> None:
    config = transformers.MambaConfig(
        hidden_size=16, num_hidden_layers=6, state_size=4, vocab_size=50, architectures=["MambaForCausalLM"]
    )
    config.save_pretrained(tmp_path)
    base = load_skeleton(ModelSpec(id=str(tmp_path)), auto_class=None, n_layers=3)
    assert len(base.module.get_submodule("backbone.layers")) == 3


@pytest.mark.parametrize(
    ("auto_class", "is_same"), [("AutoModelForCausalLM", True), ("AutoModelForSequenceClassification", False)]
)
def test_the_class_of_an_auto_class_is_known_without_building_it(
    llama: Path, auto_class: str, is_same: bool
) -> None:
    spec = ModelSpec(id=str(llama))
    base = model.load_skeleton(spec, auto_class=None)
    other = model.load_skeleton(spec, auto_class=auto_class)
    assert is_built_by(base.module, auto_class) is (type(base.module) is type(other.module)) is is_same
