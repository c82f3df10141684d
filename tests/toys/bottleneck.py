"""Toys that the tests of bottleneck adapters share: seven architectures, and adapters computed by hand."""

from __future__ import annotations

import re

import numpy as np
import torch
import transformers
from peft import inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from autopeft.methods.bottleneck import PART
from autopeft.model import list_sites
from autopeft.records import Adapter

WIDTH, INNER, VOCABULARY = 16, 24, 40
TOKENS = {"input_ids": torch.arange(10).reshape(2, 5)}
T5_INPUTS = {**TOKENS, "decoder_input_ids": torch.arange(6).reshape(2, 3)}
PIXELS = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.3,  # wide, so that a random model mixes its tokens
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
# Config, inputs, and the names of a layer's first and last feed-forward map.
TOYS = {
    "bert": (transformers.BertConfig, SIZES, TOKENS, "intermediate.dense", "output.dense"),
    "gpt2": (
        transformers.GPT2Config,
        {"n_embd": WIDTH, "n_inner": INNER, "n_layer": 2, "n_head": 2, "initializer_range": 0.3},
        TOKENS,
        "mlp.c_fc",
        "mlp.c_proj",
    ),
    "llama": (transformers.LlamaConfig, SIZES, TOKENS, "mlp.up_proj", "mlp.down_proj"),
    "t5": (
        transformers.T5Config,
        {"d_model": WIDTH, "d_ff": INNER, "d_kv": 8, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0},
        T5_INPUTS,
        "DenseReluDense.wi",
        "DenseReluDense.wo",
    ),
    "vit": (transformers.ViTConfig, {**SIZES, "image_size": 8, "patch_size": 4}, PIXELS, "fc1", "fc2"),
    "albert": (transformers.AlbertConfig, {**SIZES, "embedding_size": 8}, TOKENS, "ffn", "ffn_output"),
    "modernbert": (transformers.ModernBertConfig, SIZES, TOKENS, "mlp.Wi", "mlp.Wo"),
}


def build(toy, *, auto_class=transformers.AutoModel):
    """A frozen toy; the same weights at each call."""
    kind, settings, *_ = TOYS[toy]
    config = kind(**settings, **({} if toy == "vit" else {"vocab_size": VOCABULARY, **IDS}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return auto_class.from_config(config).requires_grad_(False).eval()


def adapted_sites(model, *, mode=None):
    sites = [site for site in list_sites(model) if PART.refusal(site) is None]
    return [site for site in sites if mode in (None, PART.options(site)["mode"])]


def adapters_at(sites, *, activation="relu", ranks=(1, 2, 3), scale=0.5):
    """An adapter at each site; the ranks take turns."""
    return [
        Adapter(
            method="bottleneck",
            site=site.name,
            rank=ranks[i % len(ranks)],
            scale=scale,
            options=tuple(PART.options(site, activation=activation).items()),
        )
        for i, site in enumerate(sites)
    ]


def inject(model, *configs):
    for i, config in enumerate(configs):
        inject_adapter_in_model(config, model, f"{config.peft_type.value.lower()}_{i}")
    for module in model.modules():  # an injection leaves only its own name active in layers of its tuner
        if isinstance(module, BaseTunerLayer):
            module.set_adapter(sorted(module._get_available_adapters()))
    return model


def stir(model, *, std=0.5):
    """Random numbers in every trained tensor, by name, whatever the order in which they came."""
    for name, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            plain = re.sub(r"base_layer\.|_\d+", "", name)
            seed = sum(map(ord, plain))
            nn.init.normal_(parameter, std=std, generator=torch.Generator().manual_seed(seed))
    return model


@torch.no_grad()
def output(model, inputs=TOKENS):
    return model.eval()(**inputs)[0]


def n_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def tuner_layers(model):
    return [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


def small_mlp(layer, name, x, *, activation="relu"):
    """What an adapter adds before scaling, in float64 numpy; x has shape (..., D)."""
    down, up = (
        [tensor.detach().double().numpy() for tensor in (half[name].weight, half[name].bias)]
        for half in (layer.bottleneck_down, layer.bottleneck_up)
    )
    hidden = x.detach().double().numpy() @ down[0].T + down[1]
    acted = {
        "relu": lambda h: np.maximum(h, 0),
        "swish": lambda h: h / (1 + np.exp(-h)),
        "gelu": lambda h: h * np.vectorize(gauss)(h),
    }[activation](hidden)
    return acted @ up[0].T + up[1]


def gauss(value):
    """The normal distribution function."""
    return 0.5 * (1 + float(torch.erf(torch.tensor(value / 2**0.5, dtype=torch.float64))))


def with_terms_added(model, layers, pairs, scale):
    """Permanent hooks that add each layer's term, computed in numpy, to what the last map's place gives."""
    seen = {}
    for (first, last), layer in zip(pairs, layers, strict=True):

        def keep(module, inputs, first=first):
            seen[first] = inputs[0]

        def add(module, inputs, given, first=first, layer=layer):
            (name,) = layer.bottleneck_up
            return given + torch.from_numpy(scale * small_mlp(layer, name, seen[first])).float()

        model.get_submodule(first).register_forward_pre_hook(keep)
        model.get_submodule(last).register_forward_hook(add)
    return model


def pairs_of(toy, model):
    """(first map, last map) of every feed-forward sub-layer, by the names of the architecture."""
    *_, first, last = TOYS[toy]
    names = [name for name, _ in model.named_modules() if name.endswith(f".{first}")]
    return [(name, name.removesuffix(first) + last) for name in names]
