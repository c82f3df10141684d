"""Which rows of a layer's input belong to which example, where shapes are ambiguous: against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from toys import architectures as model_toys
from toys.sensitivity import mean_squares, score_by_target, weights_of

from autopeft.model import BaseModel
from autopeft.plugins import discover

CLASSES = discover("autopeft.tasks")["text-classification"]
IMAGES = discover("autopeft.tasks")["image-classification"]
CLASSIFIER = "AutoModelForSequenceClassification"
SHAPES = [(6, 6), (3, 6), (4, 9), (1, 6)]  # (examples, tokens of the longest)


def built(module):
    return BaseModel(module.eval(), None, name="toy", untrained=frozenset())


def toy(architecture, auto_class):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return built(getattr(transformers, auto_class).from_config(model_toys.CONFIGS[architecture]()))


def texts(n, n_tokens):
    """Texts of different lengths."""
    rng = np.random.default_rng(0)
    lengths = [n_tokens, *rng.integers(3, n_tokens + 1, size=n - 1)]
    rows = [
        {"input_ids": rng.integers(4, model_toys.V, size=n).tolist(), "attention_mask": [1] * n}
        for n in lengths
    ]
    return CLASSES.collate(rows, [i % 2 for i in range(n)], 0)


def assert_is_brute_force(base, task, batch, batches, *, rel):
    """The Fisher over some batches is the mean over single examples of one of them."""
    expected = mean_squares(weights_of(base), base, task, [batch])
    assert score_by_target("fisher", base, batches, task=task) == pytest.approx(expected, rel=rel, abs=1e-9)


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fisher_of_a_batch_is_that_of_single_examples(architecture, shape):
    base, batch = toy(architecture, CLASSIFIER), texts(*shape)
    assert_is_brute_force(base, CLASSES, batch, [batch, batch], rel=1e-4)


def test_texts_are_kept_apart_where_the_batch_is_halved():
    base, batch = toy("bert", CLASSIFIER), texts(12, 6)  # T as many as each half
    assert_is_brute_force(base, CLASSES, batch, [batch], rel=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_padding_does_not_count(shape):
    """More padding, of other ids, changes no value."""
    base, batch = toy("bert", CLASSIFIER), texts(*shape)
    longer = {
        name: torch.nn.functional.pad(batch[name], (0, 3), value=7 if name == "input_ids" else 0)
        for name in ("input_ids", "attention_mask")
    }
    for score in ("gradient", "fisher"):
        first, second = (
            score_by_target(score, base, [padded, padded], task=CLASSES)
            for padded in (batch, {**longer, "labels": batch["labels"]})
        )
        assert second == pytest.approx(first, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("n", [3, 4, 8])
def test_windows_of_as_many_patches_as_there_are_images_stay_whole(n):
    config = transformers.SwinConfig(
        image_size=8, patch_size=2, embed_dim=8, depths=[2], num_heads=[2], window_size=2, num_labels=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = built(transformers.SwinForImageClassification(config))
        batch = {"pixel_values": torch.randn(n, 3, 8, 8), "labels": torch.arange(n) % 2}
    assert_is_brute_force(base, IMAGES, batch, [batch, batch], rel=1e-3)
