"""Toy models that bitsandbytes quantizes, as a search would load them."""

from __future__ import annotations

import pytest
import torch
import transformers

from autopeft import model
from autopeft.types import ModelSpec
from toys.bases import AUTO_CLASSES, toy_config
from toys.specs import run_spec
from toys.words import LABEL_NAMES

bitsandbytes = pytest.importorskip("bitsandbytes", reason="needs the extra quantize, which dev holds")
QUANTIZED_MARKS = [
    pytest.mark.skipif(
        "cpu" not in getattr(bitsandbytes, "supported_torch_devices", {"cpu"}),
        reason="this bitsandbytes has no kernels for the CPU",
    ),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
by_bits = pytest.mark.parametrize("bits", ["4bit", "8bit"])
CLASSIFIER = "AutoModelForSequenceClassification"
LLM = "llama-lm"


def save_toy(architecture, folder, tokenizer):
    """Write a toy with all of its weights and the tokenizer to a folder."""
    auto = getattr(transformers, AUTO_CLASSES.get(architecture, CLASSIFIER))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        auto.from_config(toy_config(architecture.removesuffix("-lm"), hidden=32)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load_toy(folder, bits, *, architecture="bert", with_tokenizer=False, **settings):
    """The toy in a folder as a search would load it."""
    return model.load(
        ModelSpec(id=str(folder), quantize=bits),
        auto_class=AUTO_CLASSES.get(architecture, CLASSIFIER),
        label_names=() if architecture.endswith("-lm") else LABEL_NAMES,
        needs_tokenizer=with_tokenizer,
        device="cpu",
        **settings,
    )


def search_spec(bits, model_dir, data_dir, out, **settings):
    """Settings of a small search; its best plan is one config, as one method is all there is."""
    usual = {"methods": ["lora"], "budget": "5%", "max_steps": 8, "batch_size": 8}
    usual |= {"quantize": bits, "out": str(out)}
    return run_spec(model_dir, data_dir, **{**usual, **settings})
