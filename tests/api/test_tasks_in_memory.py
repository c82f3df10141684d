"""A model and rows of a task other than text classification, in memory."""

from __future__ import annotations

import datasets
import numpy as np
import torch
import transformers
from PIL import Image
from toys.bases import toy_config
from toys.tasks import image_processor

import autopeft


def images():
    rng = np.random.default_rng(0)
    shades = [(row % 2, rng.integers(0, 99, (10, 10, 3)) + 120 * (row % 2)) for row in range(100)]
    names = ("dark", "light")
    return [{"image": Image.fromarray(s.astype(np.uint8)), "label": names[label]} for label, s in shades]


def test_search_of_images_in_memory_leaves_the_model_and_its_plan_applies(tmp_path):
    module = transformers.AutoModelForImageClassification.from_config(toy_config("vit"))
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    result = autopeft.search(
        model=module,
        data=datasets.Dataset.from_list(images()),
        tokenizer=image_processor(),
        task="image-classification",
        budget="5%",
        methods=["lora"],
        max_steps=4,
        batch_size=8,
        effort="quick",
        out=tmp_path / "run",
    )
    assert (tmp_path / "run/best/weights/README.md").is_file()
    after = module.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert result.setting.task == "image-classification"
    adapted = autopeft.apply(result.best, module)
    trained = [p for key, p in adapted.named_parameters() if p.requires_grad and "modules_to_save" not in key]
    assert sum(p.numel() for p in trained) == result.best.trainable_params
