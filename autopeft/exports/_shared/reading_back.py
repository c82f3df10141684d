"""Loads an adapter's folder as plain `peft` does."""

from __future__ import annotations

from collections.abc import Sequence

from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from autopeft.adapters import ConfigFile
from autopeft.errors import SpecError, reason_of
from autopeft.exports._shared.adapter import MERGE_ERRORS
from autopeft.model import merge
from autopeft.model.attaching import read_weights


def load_in_peft(module: nn.Module, files: Sequence[ConfigFile]) -> nn.Module:
    """Load an adapter with plain `peft`.

    Of several configs, each is merged into `module` before the next one is loaded. A trained head is next to
    the first. Raises SpecError for a folder without weights, or if `peft` refuses the adapter.
    """
    model = module
    if (head := files[0].folder / "head.safetensors").is_file():
        module.load_state_dict(load_file(head), strict=False)
    for file in files:
        if read_weights(file.folder) is None:
            raise SpecError(f"{file.folder} has no weights to load; export a trained plan.")
        try:
            device = str(next(model.parameters()).device)  # without it peft puts the tensors on a GPU
            adapted = PeftModel.from_pretrained(
                model, str(file.folder), low_cpu_mem_usage=False, torch_device=device
            )
            model = merge(adapted) if len(files) > 1 else adapted
        except (*MERGE_ERRORS, KeyError) as error:
            raise SpecError(
                f"peft cannot load {file.folder} ({reason_of(error)}); export it again, or name its base "
                "model."
            ) from error
    return model
