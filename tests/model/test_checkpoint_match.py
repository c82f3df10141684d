"""Whether a model in memory has the weights of its checkpoint; transformers writes the checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, BertModel

from autopeft.model.weight_comparison import difference_from_checkpoint, lacking_in_checkpoint

HEAD = ("classifier",)


def loaded(folder: Path) -> BertForSequenceClassification:
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    assert isinstance(model, BertForSequenceClassification)
    return model


def test_a_model_as_it_was_loaded_has_no_difference_however_its_files_are_cut(
    model_dir: Path, tmp_path: Path
) -> None:
    model = loaded(model_dir)
    assert difference_from_checkpoint(model, str(model_dir), exclude=HEAD) is None
    model.save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert difference_from_checkpoint(model, str(tmp_path / "shards"), exclude=HEAD) is None
    with torch.no_grad():
        model.classifier.weight.add_(1)  # the head is drawn anew by each load
    assert difference_from_checkpoint(model, str(tmp_path / "shards"), exclude=HEAD) is None


def test_a_checkpoint_of_the_encoder_alone_or_in_bfloat16_is_the_same_model(
    model_dir: Path, tmp_path: Path
) -> None:
    BertModel.from_pretrained(model_dir, dtype=torch.bfloat16).save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32)
    assert difference_from_checkpoint(model, str(tmp_path), exclude=HEAD) is None
    assert difference_from_checkpoint(loaded(model_dir), str(tmp_path), exclude=HEAD) is not None


def test_one_changed_number_is_a_difference(model_dir: Path) -> None:
    model = loaded(model_dir)
    name = "bert.encoder.layer.1.attention.self.value.weight"
    with torch.no_grad():
        model.get_parameter(name)[3, 4] += 1e-6
    assert difference_from_checkpoint(model, str(model_dir), exclude=HEAD) == name


def test_what_the_checkpoint_lacks_is_a_difference(model_dir: Path, tmp_path: Path) -> None:
    encoder = BertModel.from_pretrained(model_dir, add_pooling_layer=False)
    encoder.save_pretrained(tmp_path)
    model = loaded(tmp_path)
    assert difference_from_checkpoint(model, str(tmp_path), exclude=HEAD) == "bert.pooler.dense.weight"
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert lacking_in_checkpoint(model, str(tmp_path), exclude=HEAD) == pooler
    assert lacking_in_checkpoint(model, str(model_dir), exclude=HEAD) == frozenset()
    assert lacking_in_checkpoint(model, "some/id", exclude=HEAD) == frozenset()
    model.bert.pooler = None
    assert difference_from_checkpoint(model, str(tmp_path), exclude=HEAD) is None


@pytest.mark.parametrize("source", ["BertForSequenceClassification", "some/id", "a/b/c", "gone\0"])
def test_a_checkpoint_that_is_not_here_shows_no_difference(model_dir: Path, source: str) -> None:
    assert difference_from_checkpoint(loaded(model_dir), source, exclude=HEAD) is None


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_a_damaged_file_shows_no_difference(model_dir: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"{}")
    assert difference_from_checkpoint(loaded(model_dir), str(tmp_path), exclude=HEAD) is None


def test_layers_whose_tensors_have_other_names_in_the_file_show_no_difference(
    model_dir: Path, tmp_path: Path
) -> None:
    """`transformers` renames and joins tensors of some models, such as experts, as it loads them."""
    model = loaded(model_dir)
    renamed = {key.replace("attention.self.query", "att.q"): v for key, v in model.state_dict().items()}
    save_file({key: value.contiguous() for key, value in renamed.items()}, tmp_path / "model.safetensors")
    assert difference_from_checkpoint(model, str(tmp_path), exclude=HEAD) is None
