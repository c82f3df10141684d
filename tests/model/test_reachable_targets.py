"""Target modules are where a forward pass of the task goes: nowhere else does an adapter change an output."""

from __future__ import annotations

import pytest
import torch
import transformers
from toys.families import BART, CLIP_TEXT, GROUPED, HEADED, IDS, VISION_TOWER, D, F, V

from autopeft import model
from autopeft.adapters import compile_plan
from autopeft.errors import ModelError, TargetError
from autopeft.types import ModelSpec

TEXT, CAUSAL, IMAGES = (
    f"AutoModelFor{task}" for task in ("SequenceClassification", "CausalLM", "ImageClassification")
)
MAMBA = {"vocab_size": V, "hidden_size": D, "num_hidden_layers": 2, "state_size": 4, **IDS}
GATED = {"num_heads": 4, "head_dim": 8, "n_groups": 2, "chunk_size": 8}
ENCODER = {"vocab_size": V, "hidden_size": D, "intermediate_size": F, "num_hidden_layers": 2}
ENCODER |= {"num_attention_heads": 4, "max_position_embeddings": 40}
EXPERTS = {**GROUPED, "num_local_experts": 3, "num_experts_per_tok": 2}
CONVNEXT = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 32}
# Model -> config, auto class to save with and to load with, words in the names of target modules that are
# left out.
TOYS = {
    "gemma3": (
        transformers.Gemma3Config(text_config=HEADED, vision_config=VISION_TOWER, mm_tokens_per_image=4),
        "AutoModelForImageTextToText",
        CAUSAL,
        ("vision_tower", "multi_modal"),
    ),
    "siglip": (
        transformers.SiglipConfig(text_config=CLIP_TEXT, vision_config=VISION_TOWER),
        "AutoModel",
        IMAGES,
        ("vision_model.head",),
    ),
    "clip": (
        transformers.CLIPConfig(text_config=CLIP_TEXT, vision_config=VISION_TOWER),
        "AutoModel",
        IMAGES,
        ("post_layernorm",),
    ),
    "big_bird": (
        transformers.BigBirdConfig(**ENCODER, attention_type="original_full"),
        "AutoModel",
        TEXT,
        ("pooler",),
    ),
    "mamba": (transformers.MambaConfig(**MAMBA), CAUSAL, CAUSAL, ("out_proj", "dt_proj")),
    "mamba2": (transformers.Mamba2Config(**MAMBA, **GATED), CAUSAL, CAUSAL, ("out_proj", "mixer.norm")),
    "phimoe": (transformers.PhimoeConfig(**EXPERTS), CAUSAL, CAUSAL, ("router",)),
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory, tokenizer):
    """A function: config and auto class -> the folder of a model with tokenizer or image processor."""

    def save(config, auto_class):
        folder = tmp_path_factory.mktemp(config.model_type)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            getattr(transformers, auto_class).from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        side = getattr(getattr(config, "vision_config", config), "image_size", 32)
        transformers.ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def load(folder_of):
    """A function: name of a toy -> the base model for its task."""

    def load(name):
        config, saved_as, auto_class, _ = TOYS[name]
        labels = () if auto_class == CAUSAL else ("a", "b")
        spec = ModelSpec(id=str(folder_of(config, saved_as)))
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
    assert not [word for word in TOYS[name][3] if word in names]
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
    config, saved_as, _, _ = TOYS[name]
    spec = ModelSpec(id=str(folder_of(config, saved_as)))
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
    spec = ModelSpec(id=str(folder_of(config, "AutoModel")))
    with pytest.raises(TargetError, match="resnet"):
        model.load(spec, auto_class=IMAGES, label_names=("a", "b"))


def test_a_norm_over_channels_that_come_first_is_not_a_target():
    """Not even before a short pass, which cannot tell it where an image is as wide as it has channels."""
    module = transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**CONVNEXT))
    base = model.BaseModel(module, None, name="toy", untrained=frozenset())
    norms = {target.name for target in base.targets if target.role == "norm"}
    first = {name for name, m in base.module.named_modules() if getattr(m, "data_format", "")[9:] == "first"}
    assert norms
    assert first
    assert not norms & first


def test_the_decoder_of_an_encoder_is_not_a_language_model(folder_of):
    spec = ModelSpec(id=str(folder_of(transformers.BartConfig(**BART), CAUSAL)))
    with pytest.raises(ModelError, match="decoder"):
        model.load(spec, auto_class=CAUSAL, label_names=())
