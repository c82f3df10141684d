"""Target modules are where a forward pass of the task goes: nowhere else does an adapter change an output."""

from __future__ import annotations

import pytest
import torch
import transformers
from toys import topologies
from toys.families import BART, SIZE

from autopeft import model
from autopeft.adapters import compile_plan
from autopeft.errors import ModelError, TargetError
from autopeft.types import ModelSpec

TEXT, CAUSAL, IMAGES = (
    f"AutoModelFor{task}" for task in ("SequenceClassification", "CausalLM", "ImageClassification")
)
# Model -> auto class of its task, words in the names of target modules that are left out.
TOYS = {
    "gemma3": (CAUSAL, ("vision_tower", "multi_modal")),
    "siglip": (IMAGES, ("vision_model.head",)),
    "clip": (IMAGES, ("post_layernorm",)),
    "big_bird": (TEXT, ("pooler",)),
    "mamba": (CAUSAL, ("out_proj", "dt_proj")),
    "mamba2": (CAUSAL, ("out_proj", "mixer.norm")),
    "phimoe": (CAUSAL, ("router",)),
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory, tokenizer):
    """A function: a model -> its folder, with tokenizer and image processor."""

    def save(module):
        folder = tmp_path_factory.mktemp(module.config.model_type)
        module.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        side = getattr(getattr(module.config, "vision_config", module.config), "image_size", 32)
        transformers.ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
        return folder

    return save


def toy(name):
    if name == "big_bird":
        return transformers.BigBirdModel(transformers.BigBirdConfig(**SIZE, attention_type="original_full"))
    return topologies.build(name, device="cpu")


@pytest.fixture(scope="module")
def load(folder_of):
    """A function: name of a toy -> the base model for its task."""

    def load(name):
        auto_class, _ = TOYS[name]
        labels = () if auto_class == CAUSAL else ("a", "b")
        spec = ModelSpec(id=str(folder_of(toy(name))))
        return model.load(spec, auto_class=auto_class, label_names=labels)

    return load


def features_of(base):
    if base.module.main_input_name == "pixel_values":
        config = base.module.config
        side = getattr(getattr(config, "vision_config", config), "image_size", None)
        return {"pixel_values": torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))}
    ids = torch.arange(5, 21).reshape(2, 8)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("name", TOYS)
def test_every_target_takes_part_in_the_task(name, load, make_plan, methods):
    """An adapter at each of them gets a gradient, and leaves the base model as it was."""
    base = load(name)
    names = " ".join(target.name for target in base.targets)
    assert not [word for word in TOYS[name][1] if word in names]
    before = base.sha256()
    for method in ("lora", "ln_tuning"):
        plan = make_plan(base, method)
        configs = compile_plan(plan, methods).configs
        with base.attached(configs, plan=plan, task_type=None, seed=0) as adapted:
            base.to_train(adapted)
            adapted(**features_of(base)).logits.square().sum().backward()
            idle = [n for n, p in adapted.named_parameters() if p.requires_grad and p.grad is None]
            assert not idle
    assert base.sha256() == before


@pytest.mark.parametrize("name", ["gemma3", "mamba", "mamba2", "phimoe"])
def test_a_search_of_texts_adapts_the_modules_that_suggest_finds_without_weights(name, folder_of, load):
    """So that r16 is one budget in both."""
    spec = ModelSpec(id=str(folder_of(toy(name))))
    skeleton = model.load_skeleton(spec, auto_class=None)
    assert _linear(skeleton) == _linear(load(name))


def _linear(base):
    ends = {".".join(t.name.split(".")[-4:]): t.in_features for t in base.chosen if t.kind == "linear"}
    assert ends
    return ends


def test_experts_that_no_token_visits_are_kept(load):
    base = load("phimoe")
    experts = {target.name for target in base.targets if target.kind == "parameter"}
    assert experts == {
        f"model.layers.{layer}.mlp.experts.{part}_proj" for layer in (0, 1) for part in ("gate_up", "down")
    }


def test_a_model_of_convolutions_and_batch_norms_has_nothing_to_adapt(folder_of):
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    spec = ModelSpec(id=str(folder_of(transformers.AutoModel.from_config(config))))
    with pytest.raises(TargetError, match="resnet"):
        model.load(spec, auto_class=IMAGES, label_names=("a", "b"))


def test_a_norm_over_channels_that_come_first_is_not_a_target():
    """Not even before a short pass, which cannot see it if an image is as wide as it has channels."""
    base = model.BaseModel(topologies.build("convnext"), None, name="toy", untrained=frozenset())
    norms = {target.name for target in base.targets if target.role == "norm"}
    first = {name for name, m in base.module.named_modules() if getattr(m, "data_format", "")[9:] == "first"}
    assert norms
    assert first
    assert not norms & first


def test_the_decoder_of_an_encoder_is_not_a_language_model(folder_of):
    module = transformers.BartForCausalLM(transformers.BartConfig(**BART))
    spec = ModelSpec(id=str(folder_of(module)))
    with pytest.raises(ModelError, match="decoder"):
        model.load(spec, auto_class=CAUSAL, label_names=())
