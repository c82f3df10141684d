"""The trained weights of a plan: saved in `peft`'s layout, loaded again, or merged into the base model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import nn

from autopeft.errors import SpecError, TrainingError
from autopeft.store import require_unchanged, seal_folder


def save_weights(model: PeftModel, names: Sequence[str], folder: Path) -> None:
    """Write the adapters and the head of a trained plan to a folder.

    One adapter lies in the folder itself, so that `PeftModel.from_pretrained(base, folder)` reads it;
    several lie in a sub-folder each, in the order that `order.json` lists. `checksums.json` seals them.
    """
    (folder / "checksums.json").unlink(missing_ok=True)
    for name in names:
        # Left to decide by itself, peft would ask the hub for the base model's vocabulary.
        config = model.peft_config[name]
        if getattr(config, "modules_to_save", None):  # peft adds names of heads that are there already
            config.modules_to_save = list(dict.fromkeys(config.modules_to_save))
        model.save_pretrained(str(folder), selected_adapters=[name], save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty template of a model card
    if len(names) > 1:
        (folder / "order.json").write_text(json.dumps(list(names)) + "\n", encoding="utf-8")
    seal_folder(folder)


def load_weights(model: PeftModel, names: Sequence[str], folder: Path) -> None:
    """Load what `save_weights` wrote into a model with the same plan.

    Raises TrainingError where a file is missing, and SpecError where a file differs from its checksum.
    """
    require_unchanged(folder)
    for name in names:
        path = _weights_path(folder, name, names)
        if not path.is_file():
            raise TrainingError(f"The trained weights {path} are gone; run the search again with --resume.")
        set_peft_model_state_dict(model, load_file(path), adapter_name=name)


def require_weights(model: PeftModel, folder: Path) -> None:
    """Raise a SpecError if a folder does not hold exactly the tensors of a model's adapters and head."""
    names = tuple(model.peft_config)
    for name in names:
        path = _weights_path(folder, name, names)
        if not path.is_file():
            raise SpecError(f"{path} is not there; pass the folder to which this plan's weights were saved.")
        state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        expected = {key: tuple(tensor.shape) for key, tensor in state.items()}
        stored = {key: tuple(tensor.shape) for key, tensor in load_file(path).items()}
        odd = sorted(key for key in expected | stored if expected.get(key) != stored.get(key))
        if odd:
            raise SpecError(
                f"{path} has {stored.get(odd[0], 'none')} for {odd[0]}, the plan "
                f"{expected.get(odd[0], 'none')} ({len(odd)} tensors differ); pass the weights of this very "
                "plan and model."
            )


def _weights_path(folder: Path, name: str, names: Sequence[str]) -> Path:
    return (folder / name if len(names) > 1 else folder) / "adapter_model.safetensors"


def modules_kept_whole(folder: Path) -> frozenset[str]:
    """Names of the modules that were trained whole (`modules_to_save`), by the configs in a folder."""
    files = [file for pattern in ("", "*/") for file in folder.glob(f"{pattern}adapter_config.json")]
    configs = [json.loads(file.read_bytes()) for file in files]
    return frozenset(name for config in configs for name in config.get("modules_to_save") or ())


def merge(model: PeftModel) -> nn.Module:
    """The base model with its adapters merged into it and the trained head; `model` is used up.

    Layers with an unloading method of their own are merged first. For heads of several layers and for
    experts in one parameter, another tuner of `peft` 0.21.2 would ask for a `weight` that they lack.
    NotImplementedError, AttributeError or SpecError says that an adapter is no change of weights. Weights in
    16 bits are widened to float32 while they change, one layer at a time.
    """
    inner = model.get_base_model()
    was_tied = _is_tied(inner)
    for layer in inner.modules():
        if isinstance(layer, BaseTunerLayer) and hasattr(layer, "merge"):
            cast(Any, layer).merge = partial(_merge_in_float32, layer, layer.merge)
    unloaded: tuple[str, ...] = ()
    for name, layer in list(inner.named_modules()):
        if hasattr(layer, "unload_and_optionally_merge_module") and not name.startswith(unloaded):
            parent, _, child = name.rpartition(".")
            plain = layer.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
            setattr(inner.get_submodule(parent), child, plain)
            unloaded = (*unloaded, f"{name}.")
    merged = cast(nn.Module, model.merge_and_unload(safe_merge=True))
    if was_tied and not _is_tied(merged):
        _correct_ties(merged)
    return merged


def _is_tied(module: nn.Module) -> bool:
    """Whether the config says that the output layer is the embeddings, so that a file has them once."""
    return bool(getattr(getattr(module, "config", None), "tie_word_embeddings", False))


def _correct_ties(module: Any) -> None:
    """Make a model that `peft` declared untied agree with its config again: a reader draws what a file lacks.

    `peft` 0.21.2 compares the output layer with the input embeddings. Those of T5Gemma belong to its encoder,
    and the output layer has the weight of the decoder's, which is still tied. Where one weight is free
    indeed, the others get memory of their own, since the config ties either all or none.
    """
    pairs = [tuple(map(module.get_parameter, pair)) for pair in module.all_tied_weights_keys.items()]
    tied = [target.data_ptr() == source.data_ptr() for target, source in pairs]
    if tied and all(tied):
        module.config.tie_word_embeddings = True
        return
    for name, is_tied in zip(module.all_tied_weights_keys, tied, strict=True):
        if is_tied:
            owner, _, child = name.rpartition(".")
            parameter = module.get_parameter(name)
            copied = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
            setattr(module.get_submodule(owner), child, copied)


def _merge_in_float32(layer: BaseTunerLayer, merge: Callable[..., None], *args: Any, **settings: Any) -> None:
    """Merge a layer of which the weights in 16 bits are float32 meanwhile, so that it rounds them once."""
    narrow = {
        name: parameter.dtype
        for name, parameter in layer.get_base_layer().named_parameters()
        if parameter.dtype in (torch.bfloat16, torch.float16)
    }
    for name in narrow:
        parameter = layer.get_base_layer().get_parameter(name)
        parameter.data = parameter.data.float()
    merge(*args, **settings)
    for name, dtype in narrow.items():  # the merge may have put others in their place
        parameter = layer.get_base_layer().get_parameter(name)
        parameter.data = parameter.data.to(dtype)
