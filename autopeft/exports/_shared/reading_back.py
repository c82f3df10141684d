"""Loads an adapter's folder as plain `peft` does, and lists the servers that read it."""

from __future__ import annotations

from collections.abc import Sequence

from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from autopeft.adapters import ConfigFile
from autopeft.adapters.configs import changed_fields
from autopeft.errors import SpecError, reason_of
from autopeft.exports._shared.adapter import MERGE_ERRORS
from autopeft.model import merge
from autopeft.model.attaching import read_weights

# Fields of LoRA that leave the update B A with one scale.
_PLAIN = {"r", "lora_alpha", "target_modules", "fan_in_fan_out", "lora_dropout", "exclude_modules"}
_PLAIN |= {"layers_to_transform", "layers_pattern", "init_lora_weights"}


def servers_of(configs: Sequence[PeftConfig]) -> tuple[str, ...]:
    """List the servers that read an adapter right: of plain LoRA with one scale for all modules.

    Servers know no patterns, and take the scale from the top of the config. vLLM divides alpha by r, or by
    its root for rsLoRA (vllm/lora/peft_helper.py); llama.cpp divides it by the rank of each tensor
    (src/llama-adapter.h).
    """
    if len(configs) != 1 or not isinstance(configs[0], LoraConfig):
        return ()
    fields = changed_fields(configs[0]).keys() - _PLAIN
    return ("vllm", "llama.cpp") if not fields else ("vllm",) if fields == {"use_rslora"} else ()


def load_in_peft(module: nn.Module, files: Sequence[ConfigFile]) -> tuple[nn.Module, tuple[str, ...]]:
    """Load an adapter with plain `peft`; return the model, and phrases on missing and ignored tensors.

    Of several configs, each is merged into `module` before the next one is loaded. A trained head is next to
    the first. Raises SpecError for a folder without weights, or if `peft` refuses the adapter.
    """
    faults: list[str] = []
    model = module
    if (head := files[0].folder / "head.safetensors").is_file():
        module.load_state_dict(load_file(head), strict=False)
    for file in files:
        tensors = read_weights(file.folder)
        if tensors is None:
            raise SpecError(f"{file.folder} has no weights to verify; export a trained plan.")
        try:
            device = str(next(model.parameters()).device)  # without it peft puts the tensors on a GPU
            adapted = PeftModel.from_pretrained(
                model, str(file.folder), low_cpu_mem_usage=False, torch_device=device
            )
            expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
            model = merge(adapted) if len(files) > 1 else adapted
        except (*MERGE_ERRORS, KeyError) as error:
            raise SpecError(
                f"peft cannot load {file.folder} ({reason_of(error)}); export it again, or name its base "
                "model."
            ) from error
        for name in sorted(expected.keys() - tensors.keys())[:1]:
            faults.append(f"{file.folder} has no {name}, which peft expects")
        for name in sorted(tensors.keys() - expected.keys())[:1]:
            faults.append(f"{file.folder} has {name}, which peft ignores")
    return model, tuple(faults)
