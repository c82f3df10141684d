"""What inference servers do with an adapter: settings and tensors that they refuse, ignore or misread.

Each statement rests on the file or thread that it names, as of December 2026. No server was run.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from peft import LoraConfig, PeftConfig

from autopeft.adapters import type_name
from autopeft.adapters.configs import changed_fields
from autopeft.types import counted, listed

SERVERS = ("vllm", "sglang", "llama.cpp", "tgi")
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of --max-lora-rank (vllm/config/lora.py)
# Fields of LoRA that leave the update B A with one scale.
_PLAIN = {"r", "lora_alpha", "target_modules", "fan_in_fan_out", "lora_dropout", "exclude_modules"}
_PLAIN |= {"layers_to_transform", "layers_pattern", "init_lora_weights"}
# Where a server reads an adapter's config and tensors.
_READER = {
    "vllm": "vllm/lora/peft_helper.py",
    "sglang": "sglang/srt/lora/lora_config.py",
    "llama.cpp": "convert_lora_to_gguf.py",
    "tgi": "text_generation_server/adapters/lora.py",
}
# Settings that change the outputs by more than B A with a scale; no server's reader knows them, ...
_BEYOND_LORA = "use_dora modules_to_save bias lora_bias layer_replication trainable_token_indices use_qalora"
# ... and some servers refuse them.
_REFUSED = {
    ("vllm", "use_dora"): "vllm/lora/peft_helper.py",
    ("vllm", "modules_to_save"): "vllm/lora/peft_helper.py",
    ("vllm", "bias"): "vllm/lora/peft_helper.py",
    ("llama.cpp", "use_dora"): "convert_lora_to_gguf.py",
    ("llama.cpp", "modules_to_save"): "llama.cpp#11554",
    ("llama.cpp", "bias"): "convert_lora_to_gguf.py",
    ("sglang", "rank_pattern"): "sglang/srt/lora/lora_config.py",
    ("sglang", "alpha_pattern"): "sglang/srt/lora/lora_config.py",
}
_STACKED = {  # adapters on experts whose weights are in one tensor
    "vllm": "vllm#41384",
    "sglang": "sglang/srt/lora/lora_manager.py",
    "llama.cpp": "convert_lora_to_gguf.py",
    "tgi": "text_generation_server/adapters/lora.py",
}
_TOWERS = {"vllm": "vllm#23796", "sglang": "sglang#28784"}
# Linear layers that a server has under another name: a pattern, what happens, whether it breaks the adapter.
_LAYERS = {
    "sglang": (r"linear_attn\.in_proj_(a|b|ba|qkv|z)$", "drops, or fails on, some versions", "sglang#30168"),
    "llama.cpp": (r"linear_attn\.out_proj$", "cannot convert", "llama.cpp#21125"),
}
_LAYER_NUMBER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class ServerFault:
    """What a server does other than `peft`, and the file or thread that shows it.

    `breaks` is False if it depends on the server's version or flags.
    """

    text: str
    source: str
    breaks: bool = True


@dataclass(frozen=True, kw_only=True)
class ServedAdapter:
    """What servers differ in: the config, and where `peft` attaches it.

    `scaled` has rank and scale of each adapted linear layer. `stacked` names parameters of experts, `towers`
    adapted modules of vision, audio and projectors. `whole` is the class that a server loads if the
    adapter's names are those of the text model inside it, else empty.
    """

    config: PeftConfig
    scaled: Mapping[str, tuple[int, float]]
    stacked: Sequence[str] = ()
    towers: Sequence[str] = ()
    n_layers: int = 0
    whole: str = ""
    n_configs: int = 1


def servers_of(configs: Sequence[PeftConfig]) -> tuple[str, ...]:
    """List the servers that read an adapter right by its config: plain LoRA with one scale for all modules.

    vLLM divides alpha by r, or by its root for rsLoRA; llama.cpp by the rank of each tensor
    (src/llama-adapter.h).
    """
    if len(configs) != 1 or not isinstance(configs[0], LoraConfig):
        return ()
    fields = changed_fields(configs[0]).keys() - _PLAIN
    return ("vllm", "llama.cpp") if not fields else ("vllm",) if fields == {"use_rslora"} else ()


def server_faults(server: str, adapter: ServedAdapter) -> Iterator[ServerFault]:
    """Yield what a server refuses, ignores or misreads of an adapter."""
    config = adapter.config
    if not isinstance(config, LoraConfig):
        yield ServerFault(text=f"serves LoRA, not {type_name(config)}", source=_READER[server])
        return
    if adapter.n_configs > 1:
        yield ServerFault(text=f"reads one config, not {adapter.n_configs}", source=_READER[server])
    fields = changed_fields(config)
    for name in (*_BEYOND_LORA.split(), "rank_pattern", "alpha_pattern"):
        default = {"rank_pattern": config.r, "alpha_pattern": config.lora_alpha}.get(name)
        is_set = name in fields and (default is None or set(fields[name].values()) != {default})
        if is_set and (source := _REFUSED.get((server, name))):
            yield ServerFault(text=f"refuses {name}", source=source)
        elif is_set and default is None:
            yield ServerFault(text=f"ignores {name}", source=_READER[server])
    if server == "sglang" and isinstance(config.target_modules, str):
        yield ServerFault(text="refuses a pattern as target_modules", source="verl#7288")
    yield from _scale_faults(server, config, adapter.scaled)
    yield from _module_faults(server, adapter)


def _scale_faults(
    server: str, config: LoraConfig, scaled: Mapping[str, tuple[int, float]]
) -> Iterator[ServerFault]:
    """Yield modules that a server would scale otherwise than `peft`, and ranks that it does not take."""
    top = config.lora_alpha / config.r
    if config.use_rslora and server in ("vllm", "tgi"):
        top = config.lora_alpha / math.sqrt(config.r)
    read = {
        name: config.lora_alpha / rank if server == "llama.cpp" else top for name, (rank, _) in scaled.items()
    }
    wrong = [name for name, (_, scale) in scaled.items() if not math.isclose(scale, read[name], rel_tol=1e-3)]
    if wrong and not (server == "sglang" and (config.rank_pattern or config.alpha_pattern)):
        factor = read[wrong[0]] / scaled[wrong[0]][1]
        source = "sglang#40835" if server == "sglang" else _READER[server]
        if server == "llama.cpp":
            source = "src/llama-adapter.h"
        text = f"scales the update of {counted(len(wrong), 'module')} otherwise, such as {wrong[0]} by {factor:.3g}"
        yield ServerFault(text=text, source=source)
    ranks = {rank for rank, _ in scaled.values()}
    most = max(ranks, default=1)
    if server == "vllm" and most > VLLM_RANKS[-1]:
        yield ServerFault(
            text=f"takes ranks up to {VLLM_RANKS[-1]}, not {most}", source="vllm/config/lora.py"
        )
    if server == "tgi" and len(ranks) > 1:
        yield ServerFault(text="refuses several ranks", source=_READER[server])


def _module_faults(server: str, adapter: ServedAdapter) -> Iterator[ServerFault]:
    """Yield adapted modules that a server leaves out, does not find, or cannot convert."""
    if adapter.whole and server in ("vllm", "tgi"):
        text = f"loads {adapter.whole}, where the modules have longer names, and drops every tensor"
        yield ServerFault(text=text, source="vllm#49354" if server == "vllm" else _READER[server])
    if adapter.stacked:
        verb = "cannot convert" if server == "llama.cpp" else "drops"
        text = f"{verb} the adapters of experts in one tensor, such as {adapter.stacked[0]}"
        yield ServerFault(text=text, source=_STACKED[server])
    if adapter.towers and server in _TOWERS:
        how = " without --enable-tower-connector-lora" if server == "vllm" else ""
        text = f"ignores {counted(len(adapter.towers), 'module')} outside the text model{how}"
        yield ServerFault(text=text, source=_TOWERS[server], breaks=False)
    if server in _LAYERS:
        pattern, text, source = _LAYERS[server]
        if found := sorted({name.rpartition(".")[2] for name in adapter.scaled if re.search(pattern, name)}):
            breaks = server == "llama.cpp"
            yield ServerFault(
                text=f"{text}: {listed(found)} of linear attention", source=source, breaks=breaks
            )
    if server == "tgi":
        layers: dict[str, set[str]] = defaultdict(set)
        for name in adapter.scaled:
            if match := _LAYER_NUMBER.search(name):
                layers[name.rpartition(".")[2]].add(match[1])
        if partial := sorted(kind for kind, numbers in layers.items() if len(numbers) < adapter.n_layers):
            text = f"drops {listed(partial)}, which not every layer has an adapter for"
            yield ServerFault(text=text, source=_READER[server])
