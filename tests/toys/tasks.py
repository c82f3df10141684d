"""A toy of every task: what it is fitted to, rows of different lengths, and a random model for it."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from autopeft.data import ImageFile
from autopeft.plugins import LabelSpace
from autopeft.types import TaskSpec
from toys.bases import toy_config
from toys.words import CONTEXT, toy_rows

try:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
except ModuleNotFoundError:  # older releases of transformers have one class, by Pillow
    from transformers import ViTImageProcessor as ViTImageProcessorPil

N = 20
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ 'day ' if m.role == 'user' else 'time ' }}{{ m.content }} [SEP] {% endfor %}"
    "{% if add_generation_prompt %}time {% endif %}"
)


@dataclass
class Toy:
    """A fitted task with its rows and a model with a head for them."""

    task: Any
    module: Any
    inputs: list[Any]
    labels: list[Any]
    tokenizer: Any

    def encoded(self, max_length=CONTEXT):
        return self.task.encode(self.inputs, self.labels, self.tokenizer, max_length)

    def batches(self, size):
        made = self.encoded()
        n = len(made.labels)
        pad = getattr(self.tokenizer, "pad_token_id", 0)
        return [
            self.task.collate(made.examples[i : i + size], made.labels[i : i + size], pad)
            for i in range(0, n, size)
        ]


def with_end_of_text(tokenizer):
    """A copy of the toy tokenizer with an end-of-text token, which adds nothing at the beginning."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = "[SEP]"
    tokenizer.backend_tokenizer.post_processor = None
    return tokenizer


def _texts():
    texts, labels = toy_rows(N, seed=3)
    return [(text,) for text in texts], labels


def _text_classification(_):
    inputs, labels = _texts()
    return LabelSpace(names=("neg", "pos")), "bert", "AutoModelForSequenceClassification", inputs, labels


def _token_classification(_):
    inputs, _labels = _texts()
    words = [(tuple(text.split()),) for (text,) in inputs]
    tags = [tuple(len(word) % 2 for word in row) for (row,) in words]
    return LabelSpace(kind="tags", names=("B-x", "O")), "bert", "AutoModelForTokenClassification", words, tags


def _text_generation(_):
    inputs, _labels = _texts()
    answers = [" ".join(reversed(text.split())) for (text,) in inputs]
    return LabelSpace(kind="completion"), "llama", "AutoModelForCausalLM", inputs, answers


def _text2text_generation(_):
    inputs, _labels = _texts()
    answers = [" ".join(text.split()[:3]) for (text,) in inputs]
    return LabelSpace(kind="completion"), "t5", "AutoModelForSeq2SeqLM", inputs, answers


def _image_classification(_):
    inputs = [(image_file(np.random.default_rng(i).integers(0, 255, (10, 10, 3))),) for i in range(N)]
    label_space = LabelSpace(names=("dark", "light"))
    return label_space, "vit", "AutoModelForImageClassification", inputs, [i % 2 for i in range(N)]


def image_file(pixels, *, name="memory"):
    """An image in memory, of values from 0 to 255."""
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(stream, format="PNG")
    return ImageFile(digest=str(hash(stream.getvalue())), path=name, content=stream.getvalue())


def image_processor(size=8):
    """A processor that resizes and normalises, without torchvision."""
    return ViTImageProcessorPil(size={"height": size, "width": size})


TOYS = {
    "text-classification": _text_classification,
    "token-classification": _token_classification,
    "text-generation": _text_generation,
    "text2text-generation": _text2text_generation,
    "image-classification": _image_classification,
}


def make_toy(part, tokenizer, *, architecture=None):
    """The toy of a task."""
    label_space, usual, auto_class, inputs, labels = TOYS[part.name](tokenizer)
    assert part.auto_class == auto_class
    config = toy_config(architecture or usual)
    config.num_labels = len(label_space.names) or 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = getattr(transformers, auto_class).from_config(config).eval()
    tokenizer = image_processor() if auto_class == "AutoModelForImageClassification" else tokenizer
    task = part.fitted(TaskSpec(), label_space, tokenizer)
    return Toy(task=task, module=module, inputs=inputs, labels=labels, tokenizer=tokenizer)
