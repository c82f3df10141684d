"""What inference servers do with an adapter: settings and tensors that they refuse, ignore or misread.

Each statement rests on the file or thread that it names, read in December 2026. Those on settings and ranks
were seen with vLLM 0.32 (research/2026-12-02-check.md); no other server was run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from peft import LoraConfig, PeftConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper

from autopeft.adapters import TOWERS, Attached, Finding, Severity, type_name
from autopeft.adapters.configs import changed_fields
from autopeft.types import Component, counted, listed

# Fields of LoRA that leave the update B A with one scale.
_PLAIN = {"r", "lora_alpha", "target_modules", "fan_in_fan_out", "lora_dropout", "exclude_modules"}
_PLAIN |= {"layers_to_transform", "layers_pattern", "init_lora_weights"}
# The part of each server that reads an adapter.
_READERS = {
    "vllm": "vllm/lora/peft_helper.py",
    "sglang": "sglang/srt/lora/lora_config.py",
    "llama.cpp": "convert_lora_to_gguf.py",
}
SERVERS = tuple(_READERS)
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of --max-lora-rank (vllm/config/lora.py)
_VLLM_RANK = 16  # of vLLM without the flag
# Settings that do more than B A with a scale. A server that does not refuse one of them ignores it.
_BEYOND = frozenset(
    "use_dora modules_to_save bias lora_bias layer_replication trainable_token_indices use_qalora".split()
)
_REFUSED = {
    "vllm": (_BEYOND - {"trainable_token_indices"}) | {"init_lora_weights"},
    "llama.cpp": {"use_dora", "modules_to_save", "bias"},  # any tensor but A and B (llama.cpp#11554)
}
# With these, `peft` changes the weights of the base model when it loads the adapter; no server does.
_BASE_CHANGING = ("pissa", "olora", "corda", "loftq")
# What a server does with adapters of experts whose weights are in one tensor.
_STACKED: Mapping[str, tuple[Severity, str, str]] = {
    "vllm": ("warning", "drops, for some models,", "vllm#41384, TuFT#154"),
    "sglang": ("warning", "drops, for some models,", "sglang#23632"),
    "llama.cpp": ("broken", "cannot convert", "convert_lora_to_gguf.py"),
}
_TOWERS = {"vllm": "vllm#23796; --enable-tower-connector-lora", "sglang": "sglang#28784"}
# Linear attention's layers that a server has in another form.
_LINEAR_ATTENTION: Mapping[str, tuple[str, Severity, str, str]] = {
    "sglang": (r"linear_attn\.in_proj_\w+$", "warning", "drops, in some versions,", "sglang#30499"),
    "llama.cpp": (r"linear_attn\.out_proj$", "broken", "cannot convert", "llama.cpp#21125"),
}


def servers_of(configs: Sequence[PeftConfig]) -> tuple[str, ...]:
    """List the servers that read an adapter right by its config: plain LoRA with one scale for all modules.

    vLLM divides alpha by r, or by its root for rsLoRA; llama.cpp by the rank of each tensor.
    """
    if len(configs) != 1 or not isinstance(configs[0], LoraConfig):
        return ()
    fields = changed_fields(configs[0]).keys() - _PLAIN
    return ("vllm", "llama.cpp") if not fields else ("vllm",) if fields == {"use_rslora"} else ()


def server_faults(
    server: str,
    attached: Attached,
    *,
    configs: Sequence[PeftConfig],
    places: Mapping[str, Component],
    tensor_names: Collection[str],
    whole: str | None,
) -> Iterator[Finding]:
    """Yield what a server does other than `peft`; a warning if its version or flags decide.

    `places` has the component of each module; `whole` is the class that a server loads, None if there is one.
    """
    config, reader = configs[0], _READERS[server]
    if not isinstance(config, LoraConfig) or len(configs) > 1:
        what = type_name(config) if len(configs) == 1 else f"{len(configs)} configs"
        yield Finding(severity="broken", text=f"loads one LoRA, not {what}", source=reader)
        return
    yield from _setting_faults(server, config)
    scaled: dict[str, tuple[int, float]] = {}  # rank and scale of each linear layer
    stacked = []
    for target, layer in attached.targets():
        owner = target.removesuffix(".weight")  # peft's word for the parameter of a module
        if isinstance(layer, ParamWrapper) and owner not in places:
            stacked.append(target)
        elif isinstance(layer, LoraLayer):
            ((adapter, rank),) = layer.r.items()
            scaled[owner] = (rank, layer.scaling[adapter])
    yield from _scale_faults(server, config, list(scaled.values()))
    yield from _module_faults(server, list(scaled), stacked, places)
    yield from _name_faults(server, tensor_names, whole=whole)


def _setting_faults(server: str, config: LoraConfig) -> Iterator[Finding]:
    """Yield settings that a server refuses or ignores."""
    names = sorted(changed_fields(config).keys() & _BEYOND)
    if str(config.init_lora_weights).lower().startswith(_BASE_CHANGING):
        names.append("init_lora_weights")
    for name in names:
        verb = "refuses" if name in _REFUSED.get(server, ()) else "ignores"
        yield Finding(severity="broken", text=f"{verb} {name}", source=_READERS[server])
    if server == "sglang" and isinstance(config.target_modules, str):
        yield Finding(severity="broken", text="refuses a pattern as target_modules", source="verl#7288")


def _scale_faults(server: str, config: LoraConfig, scaled: Sequence[tuple[int, float]]) -> Iterator[Finding]:
    """Yield how a server scales modules other than `peft`, and ranks that it does not take."""
    reader = _READERS[server]
    if server == "sglang" and len(set(scaled)) > 1:
        yield Finding(severity="broken", text="refuses rank_pattern and alpha_pattern", source=reader)
        return
    root = math.sqrt(config.r) if config.use_rslora and server == "vllm" else config.r
    factors = [
        config.lora_alpha / (rank if server == "llama.cpp" else root) / scale
        for rank, scale in scaled
        if scale
    ]
    if wrong := [factor for factor in factors if not math.isclose(factor, 1, rel_tol=1e-3)]:
        text = f"multiplies the update of {counted(len(wrong), 'module')} by {wrong[0]:.3g}"
        if server == "vllm":
            yield Finding(severity="warning", text=f"{text} before version 0.32", source=reader)
        else:
            source = {"sglang": "sglang#40835", "llama.cpp": "src/llama-adapter.h"}[server]
            yield Finding(severity="broken", text=text, source=source)
    rank = max((rank for rank, _ in scaled), default=1)
    if server == "vllm" and rank > VLLM_RANKS[-1]:
        yield Finding(severity="broken", text=f"refuses rank {rank} above 512", source="vllm/config/lora.py")
    elif server == "vllm" and rank > _VLLM_RANK:
        flag = f"--max-lora-rank {next(limit for limit in VLLM_RANKS if limit >= rank)}"
        yield Finding(severity="warning", text=f"refuses rank {rank} without {flag}", source="vllm#2847")


def _module_faults(
    server: str, modules: Sequence[str], stacked: Sequence[str], places: Mapping[str, Component]
) -> Iterator[Finding]:
    """Yield adapted modules, and experts that are stacked in one tensor, that a server leaves out."""
    if stacked:
        severity, verb, source = _STACKED[server]
        text = f"{verb} experts in one tensor, such as {stacked[0]}"
        yield Finding(text=text, source=source, severity=severity)
    towers = sum(places.get(name) in TOWERS for name in modules)
    if towers and server in _TOWERS:
        text = f"ignores {counted(towers, 'module')} outside the text model"
        yield Finding(text=text, source=_TOWERS[server], severity="warning")
    if server in _LINEAR_ATTENTION:
        pattern, severity, verb, source = _LINEAR_ATTENTION[server]
        if found := {name.rpartition(".")[2] for name in modules if re.search(pattern, name)}:
            text = f"{verb} {listed(sorted(found))} of linear attention"
            yield Finding(text=text, source=source, severity=severity)


def _name_faults(server: str, names: Collection[str], *, whole: str | None) -> Iterator[Finding]:
    """Yield names of tensors that a server refuses or does not find in the class that it loads."""
    odd = next((name for name in names if re.search(r"\.lora_[AB]\.\w+\.weight$", name)), None)
    if odd and server in ("vllm", "llama.cpp"):
        source = {"vllm": "vllm/lora/utils.py"}.get(server, _READERS[server])
        yield Finding(severity="broken", text=f"refuses names of tensors such as {odd}", source=source)
    is_in_text = bool(names) and not any("language_model." in name for name in names)
    if whole and is_in_text and server == "vllm":
        text = f"drops all tensors: it loads {whole}, whose modules have longer names"
        yield Finding(severity="broken", text=text, source="vllm#49354")
