"""What inference servers do with an adapter: settings and tensors that they refuse, ignore or misread.

Each statement rests on the file or thread that it names, read in December 2026. No server was run.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from peft import LoraConfig, PeftConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper

from autopeft.adapters import TOWERS, Attached, Finding, Severity, type_name
from autopeft.adapters.configs import changed_fields
from autopeft.types import Component, counted, layer_name, listed

# Fields of LoRA that leave the update B A with one scale.
_PLAIN = {"r", "lora_alpha", "target_modules", "fan_in_fan_out", "lora_dropout", "exclude_modules"}
_PLAIN |= {"layers_to_transform", "layers_pattern", "init_lora_weights"}
# The part of each server that reads an adapter.
_READERS = {
    "vllm": "vllm/lora/peft_helper.py",
    "sglang": "sglang/srt/lora/lora_config.py",
    "llama.cpp": "convert_lora_to_gguf.py",
    "tgi": "text_generation_server/adapters/lora.py",
}
SERVERS = tuple(_READERS)
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of --max-lora-rank (vllm/config/lora.py)
_VLLM_RANK = 16  # of vLLM without the flag
# Settings that do more than B A with a scale. A reader that does not refuse one of them ignores it.
_BEYOND = frozenset(
    "use_dora modules_to_save bias lora_bias layer_replication trainable_token_indices use_qalora".split()
)
_REFUSED = {
    "vllm": {"use_dora", "modules_to_save", "bias"},
    "sglang": {"rank_pattern", "alpha_pattern"},
    "llama.cpp": {"use_dora", "modules_to_save", "bias"},  # any tensor but A and B (llama.cpp#11554)
    "tgi": set(),
}
# What a server does with adapters of experts whose weights are in one tensor.
_STACKED: Mapping[str, tuple[Severity, str, str]] = {
    "vllm": ("warning", "drops, for some models,", "vllm#41384, TuFT#154"),
    "sglang": ("warning", "drops, for some models,", "sglang#23632"),
    "llama.cpp": ("broken", "cannot convert", "convert_lora_to_gguf.py"),
    "tgi": ("broken", "drops", _READERS["tgi"]),
}
_TOWERS = {"vllm": "vllm#23796; --enable-tower-connector-lora", "sglang": "sglang#28784"}
# Linear attention's layers that a server has in another form.
_LINEAR_ATTENTION: Mapping[str, tuple[str, Severity, str, str]] = {
    "sglang": (r"linear_attn\.in_proj_\w+$", "warning", "drops, in some versions,", "sglang#30499"),
    "llama.cpp": (r"linear_attn\.out_proj$", "broken", "cannot convert", "llama.cpp#21125"),
}


@dataclass(frozen=True, kw_only=True)
class ServedAdapter:
    """What servers differ in: the config, and where `peft` attaches it.

    `scaled` has rank and scale of each adapted linear layer. `whole` is the class that a server loads if the
    adapter's names are those of the text model inside it, else empty.
    """

    config: PeftConfig
    n_configs: int
    scaled: Mapping[str, tuple[int, float]]
    stacked: Sequence[str]
    towers: Sequence[str]
    n_layers: int
    whole: str


def servers_of(configs: Sequence[PeftConfig]) -> tuple[str, ...]:
    """List the servers that read an adapter right by its config: plain LoRA with one scale for all modules.

    vLLM divides alpha by r, or by its root for rsLoRA; llama.cpp by the rank of each tensor.
    """
    if len(configs) != 1 or not isinstance(configs[0], LoraConfig):
        return ()
    fields = changed_fields(configs[0]).keys() - _PLAIN
    return ("vllm", "llama.cpp") if not fields else ("vllm",) if fields == {"use_rslora"} else ()


def served_adapter(
    config: PeftConfig, attached: Attached, places: Mapping[str, Component], *, whole: str
) -> ServedAdapter:
    """Collect what servers differ in; `places` has the component of each module."""
    scaled: dict[str, tuple[int, float]] = {}
    stacked = []
    for target, layer in attached.targets():
        owner = target.removesuffix(".weight")  # peft's word for the parameter of a module
        if isinstance(layer, ParamWrapper) and owner not in places:
            stacked.append(target)
        elif isinstance(layer, LoraLayer):
            ((adapter, rank),) = layer.r.items()
            scaled[owner] = (rank, layer.scaling[adapter])
    text_config = attached.model.get_base_model().config.get_text_config()
    return ServedAdapter(
        config=config,
        n_configs=len(attached.model.peft_config),
        scaled=scaled,
        stacked=stacked,
        towers=[name for name in scaled if places.get(name) in TOWERS],
        n_layers=getattr(text_config, "num_hidden_layers", 0),
        whole=whole,
    )


def server_faults(server: str, adapter: ServedAdapter) -> Iterator[Finding]:
    """Yield what a server does other than `peft`; a warning if its version or flags decide."""
    config, reader = adapter.config, _READERS[server]
    if not isinstance(config, LoraConfig) or adapter.n_configs > 1:
        what = type_name(config) if adapter.n_configs == 1 else f"{adapter.n_configs} configs"
        yield Finding(severity="broken", text=f"loads one LoRA, not {what}", source=reader)
        return
    fields = changed_fields(config)
    of_all = {"rank_pattern": config.r, "alpha_pattern": config.lora_alpha}
    for name in sorted(fields.keys() & {*_BEYOND, *_REFUSED[server]}):
        if name not in of_all or set(fields[name].values()) != {of_all[name]}:
            verb = "refuses" if name in _REFUSED[server] else "ignores"
            yield Finding(severity="broken", text=f"{verb} {name}", source=reader)
    if server == "sglang" and isinstance(config.target_modules, str):
        yield Finding(severity="broken", text="refuses a pattern as target_modules", source="verl#7288")
    yield from _scale_faults(server, config, adapter.scaled)
    yield from _module_faults(server, adapter)


def _scale_faults(
    server: str, config: LoraConfig, scaled: Mapping[str, tuple[int, float]]
) -> Iterator[Finding]:
    """Yield how a server scales modules other than `peft`, and ranks that it does not take."""
    root = math.sqrt(config.r) if config.use_rslora and server in ("vllm", "tgi") else config.r
    factors = [
        config.lora_alpha / (rank if server == "llama.cpp" else root) / scale
        for rank, scale in scaled.values()
        if scale
    ]
    wrong = [factor for factor in factors if not math.isclose(factor, 1, rel_tol=1e-3)]
    if wrong and not (server == "sglang" and (config.rank_pattern or config.alpha_pattern)):
        source = {"sglang": "sglang#40835", "llama.cpp": "src/llama-adapter.h"}.get(server, _READERS[server])
        text = f"multiplies the update of {counted(len(wrong), 'module')} by {wrong[0]:.3g}"
        yield Finding(severity="broken", text=text, source=source)
    ranks = {rank for rank, _ in scaled.values()}
    most = max(ranks, default=1)
    if server == "vllm" and most > VLLM_RANKS[-1]:
        yield Finding(severity="broken", text=f"refuses rank {most} above 512", source="vllm/config/lora.py")
    elif server == "vllm" and most > _VLLM_RANK:
        flag = f"--max-lora-rank {next(rank for rank in VLLM_RANKS if rank >= most)}"
        text = f"refuses rank {most} without {flag}"
        yield Finding(text=text, source="vllm#2847", severity="warning")
    if server == "tgi" and len(ranks) > 1:
        yield Finding(severity="broken", text="stacks layers, which need one rank", source=_READERS[server])


def _module_faults(server: str, adapter: ServedAdapter) -> Iterator[Finding]:
    """Yield adapted modules that a server leaves out, does not find, or cannot convert."""
    if adapter.whole and server in ("vllm", "tgi"):
        text = f"drops all tensors: it loads {adapter.whole}, whose modules have longer names"
        yield Finding(
            severity="broken", text=text, source="vllm#49354" if server == "vllm" else _READERS[server]
        )
    if adapter.stacked:
        severity, verb, source = _STACKED[server]
        text = f"{verb} experts in one tensor, such as {adapter.stacked[0]}"
        yield Finding(text=text, source=source, severity=severity)
    if adapter.towers and server in _TOWERS:
        text = f"ignores {counted(len(adapter.towers), 'module')} outside the text model"
        yield Finding(text=text, source=_TOWERS[server], severity="warning")
    if server in _LINEAR_ATTENTION:
        pattern, severity, verb, source = _LINEAR_ATTENTION[server]
        if found := {name.rpartition(".")[2] for name in adapter.scaled if re.search(pattern, name)}:
            text = f"{verb} {listed(sorted(found))} of linear attention"
            yield Finding(text=text, source=source, severity=severity)
    if server == "tgi":
        n_layers: dict[str, int] = defaultdict(int)
        for name in adapter.scaled.keys() - set(adapter.towers):
            n_layers[name.rpartition(".")[2]] += layer_name(name) is not None
        if partial := sorted(kind for kind, number in n_layers.items() if 0 < number < adapter.n_layers):
            text = f"drops {listed(partial)}: not every layer adapts them"
            yield Finding(severity="broken", text=text, source=_READERS[server])
