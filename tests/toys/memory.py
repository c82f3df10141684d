"""Datasets and models as objects, and what a search of them is asked for."""

from __future__ import annotations

import datasets
import torch

from toys.words import LABEL_NAMES, toy_rows

SMALL = {"budget": "5%", "max_steps": 8, "batch_size": 8, "seed": 3}


def toy_dataset(n=120, seed=0):
    """Texts whose words decide one of two labels."""
    texts, labels = toy_rows(n, seed)
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=LABEL_NAMES)}
    )
    return datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)


def weights_of(module):
    """A copy of all parameters and buffers by name."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same_weights(before, after):
    """Whether two copies have the same names and the same bits."""
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
