"""The trained weights of a plan on disk, in `peft`'s own layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from autopeft.errors import SpecError, TrainingError
from autopeft.model.attaching import attached_names, holder_of

WEIGHTS_FILE = "adapter_model.safetensors"


def save_weights(model: PeftModel, names: Sequence[str], folder: Path) -> None:
    """Write a trained plan, head included, to a folder.

    One adapter lies in the folder itself, so that `PeftModel.from_pretrained(base, folder)`
    reads it; several lie in a folder each, in the order of `order.json`.
    """
    for name in names:
        # peft would ask the hub for the base model's vocabulary if it were left to decide.
        holder_of(model, name).save_pretrained(
            str(folder), selected_adapters=[name], save_embedding_layers=False
        )
    (folder / "README.md").unlink(missing_ok=True)  # an empty model card that says nothing true
    if len(names) > 1:
        (folder / "order.json").write_text(json.dumps(list(names)) + "\n", encoding="utf-8")


def load_weights(model: PeftModel, names: Sequence[str], folder: Path) -> None:
    """Read what `save_weights` wrote into a model with the same plan attached.

    Of P-tuning `peft` saves what its encoder gives and not the encoder: a model that has read
    it can be used, and not be trained on.

    Raises:
        TrainingError: A file is missing.
    """
    for name in names:
        path = folder / name / WEIGHTS_FILE if len(names) > 1 else folder / WEIGHTS_FILE
        if not path.is_file():
            raise TrainingError(f"The trained weights {path} are gone; run the search again with --resume.")
        holder = holder_of(model, name)
        if holder.peft_config[name].is_prompt_learning:
            holder.peft_config[name].inference_mode = True  # take the saved embeddings as they are
        set_peft_model_state_dict(holder, load_file(path), adapter_name=name)


def require_weights(model: PeftModel, folder: Path) -> None:
    """Refuse a folder that does not hold exactly the weights of the adapters of a model, and its head's.

    Raises:
        SpecError: A file is missing, or holds other tensors than the adapter has.
    """
    names = attached_names(model)
    for name in names:
        path = folder / name / WEIGHTS_FILE if len(names) > 1 else folder / WEIGHTS_FILE
        if not path.is_file():
            raise SpecError(f"{path} is not there; pass the folder to which this plan's weights were saved.")
        own = get_peft_model_state_dict(
            holder_of(model, name), adapter_name=name, save_embedding_layers=False
        )
        held = {key: tuple(tensor.shape) for key, tensor in own.items()}
        found = {key: tuple(tensor.shape) for key, tensor in load_file(path).items()}
        odd = sorted(key for key in held.keys() | found.keys() if held.get(key) != found.get(key))
        if odd:
            raise SpecError(
                f"{path} has {found.get(odd[0], 'none')} for {odd[0]}, the plan {held.get(odd[0], 'none')} "
                f"({len(odd)} tensors differ); pass the weights of this very plan and model."
            )


def modules_kept_whole(folder: Path) -> frozenset[str]:
    """The modules that were trained whole beside the adapters in a folder, by their configs."""
    configs = [path for path in (folder, *folder.glob("*")) if (path / "adapter_config.json").is_file()]
    kept = [json.loads((path / "adapter_config.json").read_bytes()) for path in configs]
    return frozenset(name for config in kept for name in config.get("modules_to_save") or ())


def merge(model: PeftModel) -> nn.Module:
    """The base model with its adapters merged into it and the trained head in place; `model` is used up.

    What has its own way of unloading goes first: heads of several layers and experts in one
    parameter, which another tuner of `peft` 0.21.2 would ask for a `weight` that they lack, and
    bottleneck adapters, which refuse before anything else is merged.

    Raises:
        NotImplementedError, AttributeError, SpecError: An adapter that is no change of weights.
    """
    inner = model.get_base_model()
    unloaded: tuple[str, ...] = ()
    for name, layer in list(inner.named_modules()):
        if hasattr(layer, "unload_and_optionally_merge_module") and not name.startswith(unloaded):
            parent, _, child = name.rpartition(".")
            plain = layer.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
            setattr(inner.get_submodule(parent), child, plain)
            unloaded = (*unloaded, f"{name}.")
    return cast(nn.Module, model.merge_and_unload(safe_merge=True))
