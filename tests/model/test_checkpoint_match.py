"""Whether a model in memory has the weights of its checkpoint; transformers writes the checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, BertModel

from autopeft.model.weight_comparison import compare_with_checkpoint

SAME = (frozenset[str](), None)


def loaded(folder: Path) -> BertForSequenceClassification:
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    assert isinstance(model, BertForSequenceClassification)
    return model


def compared(model: BertForSequenceClassification, source: Path | str) -> tuple[frozenset[str], str | None]:
    return compare_with_checkpoint(model, str(source), exclude=("classifier",))


def test_a_model_as_it_was_loaded_has_no_difference_however_its_files_are_cut(
    model_dir: Path, tmp_path: Path
) -> None:
    model = loaded(model_dir)
    assert compared(model, model_dir) == SAME
    model.save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert compared(model, tmp_path / "shards") == SAME
    with torch.no_grad():
        model.classifier.weight.add_(1)  # each load draws the head
    assert compared(model, tmp_path / "shards") == SAME


def test_a_checkpoint_of_the_encoder_alone_or_in_bfloat16_is_the_same_model(
    model_dir: Path, tmp_path: Path
) -> None:
    BertModel.from_pretrained(model_dir, dtype=torch.bfloat16).save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32)
    assert compared(model, tmp_path) == SAME
    assert compared(loaded(model_dir), tmp_path) != SAME


def test_one_changed_number_is_a_difference(model_dir: Path) -> None:
    model = loaded(model_dir)
    name = "bert.encoder.layer.1.attention.self.value.weight"
    with torch.no_grad():
        model.get_parameter(name)[3, 4] += 1e-6
    assert compared(model, model_dir) == (frozenset(), name)


def test_parameters_that_the_checkpoint_does_not_have_are_listed(model_dir: Path, tmp_path: Path) -> None:
    BertModel.from_pretrained(model_dir, add_pooling_layer=False).save_pretrained(tmp_path)
    model = loaded(tmp_path)
    assert compared(model, tmp_path) == ({"bert.pooler.dense.weight", "bert.pooler.dense.bias"}, None)
    model.bert.pooler = None
    assert compared(model, tmp_path) == SAME


def test_layers_whose_tensors_have_other_names_in_the_file_show_no_difference(
    model_dir: Path, tmp_path: Path
) -> None:
    """`transformers` renames and joins tensors of some models, such as experts, as it loads them."""
    model = loaded(model_dir)
    renamed = {key.replace("attention.self.query", "att.q"): v for key, v in model.state_dict().items()}
    save_file({key: value.contiguous() for key, value in renamed.items()}, tmp_path / "model.safetensors")
    assert compared(model, tmp_path) == SAME
