"""A real language model, SmolLM2-135M-Instruct as GGUF: loaded, counted, learned from.

`python tools/models/prepare_models.py smollm2` fetches it; without it these tests are skipped.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from autopeft import model
from autopeft.plugins import LabelSpace, discover
from autopeft.types import ModelSpec, TaskSpec

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools" / "models"))
from prepare_models import SOURCES, cache_folder, sha256_of  # noqa: E402

FILE = cache_folder() / Path(SOURCES["smollm2"].member).name
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(
        not FILE.is_file(), reason=f"{FILE} is absent; run: python tools/models/prepare_models.py smollm2"
    ),
]


@pytest.fixture(scope="module")
def smollm2():
    """The base model, dequantized."""
    assert sha256_of(FILE) == SOURCES["smollm2"].sha256
    return model.load(ModelSpec(id=str(FILE)), auto_class="AutoModelForCausalLM", label_names=())


def test_it_has_as_many_parameters_and_maps_as_published(smollm2):
    """30 layers of four attention maps, three feed-forward maps and two norms; one more norm; no head."""
    assert smollm2.base_params == 134_515_008
    kinds = [target.kind for target in smollm2.targets]
    assert (kinds.count("linear"), kinds.count("norm"), smollm2.head_params) == (210, 61, 0)


def test_it_finds_english_likelier_than_the_same_words_in_disorder(smollm2):
    task = discover("autopeft.tasks")["text-generation"]
    task = task.fitted(TaskSpec(), LabelSpace(kind="completion"), smollm2.tokenizer)
    rows = ["The capital of France is Paris.", "of Paris France. capital The is"]
    made = task.encode([("Say something true.",)] * 2, rows, smollm2.tokenizer, 64)
    batches = [task.collate([made.examples[i]], [made.labels[i]], smollm2.pad_token_id) for i in range(2)]
    with torch.no_grad():
        plain, shuffled = (float(task.loss(smollm2.module, batch)) for batch in batches)
    assert plain < 4 < shuffled
    assert smollm2.tokenizer.decode([i for i in made.labels[0] if i != -100]).startswith(
        f"{rows[0]}<|im_end|>"
    )
