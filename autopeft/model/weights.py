"""The trained weights of a plan on disk, in `peft`'s own layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file

from autopeft.errors import TrainingError

WEIGHTS_FILE = "adapter_model.safetensors"


def save_weights(model: PeftModel, names: Sequence[str], folder: Path) -> None:
    """Write a trained plan, head included, to a folder.

    One adapter lies in the folder itself, so that `PeftModel.from_pretrained(base, folder)`
    reads it; several lie in a folder each, in the order of `order.json`.
    """
    # peft would ask the hub for the base model's vocabulary if it were left to decide.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty model card that says nothing true
    if len(names) > 1:
        (folder / "order.json").write_text(json.dumps(list(names)) + "\n", encoding="utf-8")


def load_weights(model: PeftModel, names: Sequence[str], folder: Path) -> None:
    """Read what `save_weights` wrote into a model with the same plan attached.

    Raises:
        TrainingError: A file is missing.
    """
    for name in names:
        path = folder / name / WEIGHTS_FILE if len(names) > 1 else folder / WEIGHTS_FILE
        if not path.is_file():
            raise TrainingError(f"The trained weights {path} are gone; run the search again with --resume.")
        set_peft_model_state_dict(model, load_file(path), adapter_name=name)
