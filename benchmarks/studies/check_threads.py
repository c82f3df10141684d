"""What `autopeft check` says about adapters that reproduce public threads, and about good ones.

    python benchmarks/studies/check_threads.py [OUT.csv]

Each adapter is written by `peft` for a tiny random model of transformers, of which only the config is kept.
A thread is named by project and number; its issues and pull requests share the numbers.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from toys.adapters import ATTENTION, MLP, PREFIX, emptied, renamed, scaled, write_adapter  # noqa: E402
from toys.topologies import build  # noqa: E402

from autopeft.commands import Check, check  # noqa: E402

FIELDS = "thread fault model_type server verdict says as_expected".split()


@dataclass(frozen=True, kw_only=True)
class Case:
    """An adapter of a toy model; `verdict` and `word` are expected, from a server if there is one."""

    fault: str
    toy: str
    targets: Sequence[str] | str = field(default_factory=lambda: ATTENTION)
    settings: Mapping[str, Any] = field(default_factory=dict)
    verdict: str = "broken"
    word: str = ""
    server: str = ""

    def write(self, folder: Path) -> Path:
        """Write the base model's config and the adapter; return its folder, or its config without weights."""
        module = self.settings.get("module")
        made = {} if module is None else {"module": module()}
        adapter: Path = write_adapter(folder, self.toy, self.targets, **{**self.settings, **made})
        return adapter if self.settings.get("weights", True) else adapter / "adapter_config.json"

    def statements(self, found: Check) -> list[str]:
        """Return what is wrong by `check`: for `peft`, or on the server."""
        if not self.server:
            return [each.text for each in found.findings]
        return [f"{each.text} ({each.source})" for each in found.servers[self.server]]

    def is_expected(self, found: Check) -> bool:
        """Whether `check` gives the verdict and names the fault; a server's fault is not one of `peft`."""
        verdict = found.verdict_on(self.server) if self.server else found.verdict
        is_named = any(self.word in text for text in self.statements(found)) if self.word else True
        return verdict == self.verdict and is_named and not (self.server and found.findings)


def text_model_of_qwen() -> transformers.PreTrainedModel:
    """Return the text model that AutoModelForCausalLM makes of a config of Qwen3.5, images included."""
    return transformers.AutoModelForCausalLM.from_config(build("qwen3_5").config)


def config_only(**changes: Any) -> dict[str, Any]:
    """Return settings of a config without weights that names other modules."""
    return {"weights": False, "config": changes}


TEXT_MODEL = r".*language_model.*\.(q|k|v|o)_proj"
OLD_PATH = r"language_model.model.layers.[\d]+.(mlp|self_attn).(up|down|gate|q|k|v|o)_proj"
TEXT_FIRST = {"edit": renamed("model.language_model.", "language_model.model.")}
UNREWRITTEN = {"target_parameters": None, "rank_pattern": {}, "alpha_pattern": {}}
ROUTED = ["experts.gate_up_proj", "experts.down_proj"]

FAULTS = {
    "trl#6773": Case(
        fault="names of Llama on a hybrid: gate_proj is not there",
        toy="nemotron_h",
        targets=[*ATTENTION, *MLP],
        verdict="warning",
        word="gate_proj",
    ),
    "unsloth#4476": Case(
        fault="mlp.experts on a model that calls them mixer.experts",
        toy="nemotron_h",
        settings=config_only(target_parameters=["mlp.experts.down_proj"]),
        verdict="warning",
        word="mlp.experts.down_proj",
    ),
    "unsloth-zoo#1150": Case(
        fault="a fixed list of names on a model with other names",
        toy="gpt2",
        targets=["c_attn"],
        settings=config_only(target_modules=ATTENTION),
        word="q_proj",
    ),
    "axolotl#2735": Case(
        fault="a pattern with the path of older transformers",
        toy="llava",
        targets=TEXT_MODEL,
        settings=config_only(target_modules=OLD_PATH),
        word="language_model.model",
    ),
    "peft#3711": Case(
        fault="MLP names went to the routed experts",
        toy="deepseek_v3",
        targets=MLP,
        verdict="warning",
        word="routed experts",
    ),
    "peft#3711 before training": Case(
        fault="MLP names will go to the routed experts",
        toy="deepseek_v3",
        targets=MLP,
        settings=config_only(target_modules=MLP, **UNREWRITTEN),
        verdict="warning",
        word="routed experts",
    ),
    "peft#3232": Case(
        fault="all-linear adapts the router",
        toy="qwen3_moe",
        targets="all-linear",
        verdict="warning",
        word="router",
    ),
    "axolotl#3183": Case(
        fault="a recipe names the router",
        toy="qwen3_next",
        targets=[*ATTENTION, "mlp.gate"],
        verdict="warning",
        word="router",
    ),
    "peft#3129": Case(
        fault="the vision tower's q_proj is of a class that peft does not adapt",
        toy="gemma4",
        targets=TEXT_MODEL,
        settings=config_only(target_modules=ATTENTION),
        word="ClippableLinear",
    ),
    "unsloth#1319": Case(
        fault="q_proj is in the vision tower too",
        toy="gemma3",
        settings={"weights": False},
        verdict="warning",
        word="vision",
    ),
    "tinker-cookbook#344": Case(
        fault="the vision tower was adapted and never trained",
        toy="qwen2_5_vl",
        targets=[*ATTENTION, "qkv"],
        settings={"edit": scaled(0, "visual", "lora_B")},
        verdict="warning",
        word="vision",
    ),
    "peft#2556": Case(
        fault="peft refuses out_proj of Mamba",
        toy="falcon_h1",
        settings={"config": {"target_modules": ["in_proj", "out_proj"]}},
        word="out_proj",
    ),
    "peft#2777": Case(
        fault="embedding and head share a weight and have two adapters",
        toy="gemma3_text",
        targets=[*ATTENTION, "embed_tokens", "lm_head"],
        verdict="warning",
        word="share",
    ),
    "trl#4416": Case(
        fault="ZeRO-3 saved an empty file", toy="llama", settings={"edit": lambda _: {}}, word="no tensors"
    ),
    "accelerate#3508": Case(
        fault="ZeRO-3 saved empty tensors", toy="llama", settings={"edit": emptied("lora")}, word="no numbers"
    ),
    "peft#2450": Case(
        fault="ZeRO-3 saved an empty lm_head",
        toy="llama",
        settings={"modules_to_save": ["lm_head"], "edit": emptied("lm_head")},
        word="no numbers",
    ),
    "peft#453": Case(
        fault="half of the tensors are missing",
        toy="llama",
        settings={"edit": lambda tensors: dict(sorted(tensors.items())[:8])},
        word="8 tensors",
    ),
    "peft#1402": Case(
        fault="lora_B is zero", toy="llama", settings={"edit": scaled(0, "lora_B")}, word="lora_alpha is 0"
    ),
    "unsloth#3690": Case(
        fault="NaN", toy="llama", settings={"edit": scaled(float("nan"), "q_proj")}, word="not finite"
    ),
    "Soup#335": Case(
        fault="names of a compiled model",
        toy="llama",
        settings={"edit": renamed(PREFIX, f"_orig_mod.{PREFIX}")},
        word="_orig_mod",
    ),
    "Automodel#3655": Case(
        fault="names of the wrapper around the model",
        toy="llama",
        settings={"edit": renamed(PREFIX, f"thinker.{PREFIX}")},
        word="thinker",
    ),
    "peft#1579": Case(
        fault="names without model.",
        toy="llama",
        settings={"edit": renamed(f"{PREFIX}model.", PREFIX)},
        word="16 tensors",
    ),
    "peft#2699": Case(
        fault="an adapter called lora",
        toy="llama",
        settings={"edit": renamed(".weight", ".lora.weight")},
        word="lora.weight",
    ),
    "colpali#424": Case(
        fault="names of older transformers, which peft does not rename",
        toy="qwen2_vl",
        targets=TEXT_MODEL,
        settings={"edit": renamed("model.language_model.", "model.")},
        word="16 tensors",
    ),
    "vllm#49354": Case(
        fault="names of the text model; the server loads the model of images and texts",
        toy="qwen3_5",
        settings={"module": text_model_of_qwen},
        server="vllm",
        word="Qwen3_5ForConditional",
    ),
    "vllm#2847": Case(
        fault="rank above --max-lora-rank",
        toy="llama",
        settings={"r": 32},
        server="vllm",
        verdict="warning",
        word="--max-lora-rank 32",
    ),
    "vllm#23796": Case(
        fault="adapted vision tower",
        toy="gemma3",
        server="vllm",
        verdict="warning",
        word="6 modules",
    ),
    "vllm#41384": Case(
        fault="experts in one tensor",
        toy="qwen3_moe",
        settings={"target_parameters": ROUTED},
        server="vllm",
        verdict="warning",
        word="experts",
    ),
    "vllm#10849": Case(
        fault="DoRA", toy="llama", settings={"use_dora": True}, server="vllm", word="use_dora"
    ),
    "vllm#9280": Case(
        fault="modules_to_save",
        toy="llama",
        settings={"modules_to_save": ["lm_head"]},
        server="vllm",
        word="modules_to_save",
    ),
    "sglang#40835": Case(
        fault="rsLoRA's scale", toy="llama", settings={"use_rslora": True}, server="sglang", word="by 0.5"
    ),
    "sglang#30499": Case(
        fault="in_proj of linear attention",
        toy="qwen3_next",
        targets=[*ATTENTION, "in_proj_ba"],
        server="sglang",
        verdict="warning",
        word="in_proj_ba",
    ),
    "sglang#23632": Case(
        fault="experts in one tensor",
        toy="qwen3_moe",
        settings={"target_parameters": ROUTED},
        server="sglang",
        verdict="warning",
        word="experts",
    ),
    "sglang#28784": Case(
        fault="adapted vision tower",
        toy="qwen2_5_vl",
        targets=[*ATTENTION, "qkv"],
        server="sglang",
        verdict="warning",
        word="2 modules",
    ),
    "verl#7288": Case(
        fault="a pattern as target_modules",
        toy="llama",
        targets=r".*\.(q|v)_proj",
        server="sglang",
        word="pattern",
    ),
    "llama.cpp#11554": Case(
        fault="modules_to_save",
        toy="llama",
        settings={"modules_to_save": ["lm_head"]},
        server="llama.cpp",
        word="modules_to_save",
    ),
    "llama.cpp#21125": Case(
        fault="out_proj of linear attention",
        toy="qwen3_5_text",
        targets=["in_proj_qkv", "in_proj_z", "out_proj"],
        server="llama.cpp",
        word="out_proj",
    ),
    # Without a thread, by the source of each server.
    "vllm peft_helper.py": Case(
        fault="one scale for all modules",
        toy="llama",
        settings={"alpha_pattern": {"q_proj": 16}},
        server="vllm",
        verdict="warning",
        word="by 0.5",
    ),
    "vllm lora/utils.py": Case(
        fault="the adapter's name is in the names of tensors",
        toy="llama",
        settings={"edit": renamed(".weight", ".default.weight")},
        server="vllm",
        word="default.weight",
    ),
    "vllm peft_helper.py, PiSSA": Case(
        fault="peft changes the base model when it loads the adapter",
        toy="llama",
        settings={"config": {"init_lora_weights": "pissa"}},
        server="vllm",
        word="init_lora_weights",
    ),
    "vllm config/lora.py": Case(
        fault="rank above 512", toy="llama", settings={"r": 520}, server="vllm", word="520"
    ),
    "sglang lora_config.py": Case(
        fault="rank_pattern",
        toy="llama",
        settings={"rank_pattern": {"q_proj": 8}},
        server="sglang",
        word="rank_pattern",
    ),
    "llama.cpp llama-adapter.h": Case(
        fault="rsLoRA's scale", toy="llama", settings={"use_rslora": True}, server="llama.cpp", word="by 0.5"
    ),
}


def good(what: str, toy: str, targets: Sequence[str] | str = ATTENTION, **settings: Any) -> Case:
    """Return an adapter that `peft` loads and applies."""
    return Case(fault=what, toy=toy, targets=targets, settings=settings, verdict="good")


GOOD = [
    good("all linear layers", "llama", [*ATTENTION, *MLP]),
    good(
        "patterns of ranks with one scale", "llama", rank_pattern={"q_proj": 8}, alpha_pattern={"q_proj": 16}
    ),
    good("rsLoRA", "mistral", use_rslora=True),
    good("DoRA", "qwen3", use_dora=True),
    good("the last layer alone", "qwen2", layers_to_transform=[1], layers_pattern="layers"),
    good("all linear layers by peft's word", "olmo2", "all-linear"),
    good("embeddings", "llama", [*ATTENTION, "embed_tokens", "lm_head"]),
    good("a head that is trained whole", "llama", modules_to_save=["lm_head"]),
    good("layers of the type Conv1D", "gpt2", ["c_attn"], fan_in_fan_out=True),
    good("a classifier", "bert", ["query", "value"], task_type="SEQ_CLS"),
    good("an encoder and a decoder", "t5", ["q", "v"], task_type="SEQ_2_SEQ_LM"),
    good("peft#3554: the recurrent part is left out", "nemotron_h"),
    good("the recurrent part of a parallel hybrid", "falcon_h1", [*ATTENTION, "in_proj"]),
    good("attention and convolutions", "lfm2", ["q_proj", "k_proj", "v_proj", "out_proj", "in_proj"]),
    good("attention of a mixture of experts", "gpt_oss"),
    good("routed experts on request", "qwen3_moe", target_parameters=ROUTED),
    good(
        "shared experts by their parameters",
        "qwen3_next",
        target_parameters=["shared_expert.down_proj.weight"],
    ),
    good("images and texts", "qwen2_5_vl", [*ATTENTION, "qkv"]),
    good("a text model's own wrapper", "qwen3_5"),
    good("old names of NemotronH", "nemotron_h", edit=renamed(f"{PREFIX}model.", f"{PREFIX}backbone.")),
    good("old names of Gemma 3", "gemma3", TEXT_MODEL, **TEXT_FIRST),
    good("old names of LLaVA", "llava", TEXT_MODEL, **TEXT_FIRST),
]


def row(name: str, case: Case, folder: Path) -> list[object]:
    """Check an adapter and return a row of the table."""
    found = check(str(case.write(folder)), serve_on=[case.server] if case.server else ())
    verdict = found.verdict_on(case.server) if case.server else found.verdict
    says = " | ".join(case.statements(found)).replace(str(folder), "…")
    return [
        name,
        case.fault,
        case.toy,
        case.server,
        verdict,
        says,
        "yes" if case.is_expected(found) else "no",
    ]


def main() -> None:
    """Check all adapters and write the table."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".csv")
    named = [*FAULTS.items(), *(("good", case) for case in GOOD)]
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        for name, case in named:
            with tempfile.TemporaryDirectory() as folder:
                writer.writerow(row(name, case, Path(folder)))


if __name__ == "__main__":
    main()
