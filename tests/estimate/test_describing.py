"""What is trained on which model is described from the config: notes, layers, classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from peft import LoraConfig

from autopeft import model
from autopeft.commands import EstimateRequest, count, estimate_step
from autopeft.errors import SpecError
from autopeft.model import load_skeleton
from autopeft.model.checkpoint_source import is_built_by
from autopeft.types import ModelSpec


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("llama")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2}
    config = transformers.LlamaConfig(**sizes, vocab_size=50, architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    return folder


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
        counted = [count(str(word), model_id=str(tmp_path)) for word in ("lora_r2", tmp_path / "adapter")]
    notes_on_experts = [[note for note in each.notes if "treats them as experts" in note] for each in counted]
    assert [len(notes) for notes in notes_on_experts] == [1, 0]
    assert "treats them as experts" not in caplog.text


def test_a_row_longer_than_the_model_takes_is_refused(llama: Path) -> None:
    request = EstimateRequest(trained="lora_r4", model_id=str(llama), max_length=10**6)
    with pytest.raises(SpecError, match="2,048"):
        estimate_step(request)


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
