"""`autopeft check` on adapters that reproduce public threads, and on good ones, next to what `peft` loads."""

from __future__ import annotations

import json
import warnings

import peft
import pytest
import torch
import transformers
from toys.adapters import ATTENTION, MLP, PREFIX, emptied, renamed, scaled, write_adapter
from toys.exports import refused, trained
from toys.topologies import build
from typer.testing import CliRunner

from autopeft.cli.app import app
from autopeft.commands import check
from autopeft.plugins import discover

UNREWRITTEN = {"target_modules": MLP, "target_parameters": None, "rank_pattern": {}, "alpha_pattern": {}}
TEXT_MODEL = r".*language_model.*\.(q|k|v|o)_proj"


def text_model_of_qwen():
    return transformers.AutoModelForCausalLM.from_config(build("qwen3_5").config)


# thread -> (toy, targets, settings of `write_adapter`, verdict, a word of a finding)
LOCAL = {
    "trl#6773": ("nemotron_h", [*ATTENTION, *MLP], {}, "warning", "gate_proj"),
    "peft#3711": ("deepseek_v3", MLP, {}, "warning", "routed experts"),
    "peft#3711 before training": (
        "deepseek_v3",
        MLP,
        {"weights": False, "config": UNREWRITTEN},
        "warning",
        "routed experts",
    ),
    "peft#3232 all-linear": ("qwen3_moe", "all-linear", {}, "warning", "router"),
    "unsloth#1319": ("gemma3", ATTENTION, {"weights": False}, "warning", "vision"),
    "tinker-cookbook#344": (
        "qwen2_5_vl",
        [*ATTENTION, "qkv"],
        {"edit": scaled(0, "visual", "lora_B")},
        "warning",
        "vision",
    ),
    "peft#2556": (
        "falcon_h1",
        ATTENTION,
        {"config": {"target_modules": ["in_proj", "out_proj"]}},
        "broken",
        "out_proj",
    ),
    "trl#4416": ("llama", ATTENTION, {"edit": lambda _: {}}, "broken", "no numbers"),
    "peft#2450": (
        "llama",
        ATTENTION,
        {"modules_to_save": ["lm_head"], "edit": emptied("lm_head")},
        "broken",
        "no numbers",
    ),
    "peft#453": ("llama", ATTENTION, {"edit": lambda t: dict(sorted(t.items())[:8])}, "broken", "8 tensors"),
    "peft#1402": ("llama", ATTENTION, {"edit": scaled(0, "lora_B")}, "broken", "lora_B is zero"),
    "unsloth#3690": ("llama", ATTENTION, {"edit": scaled(torch.nan, "q_proj")}, "broken", "not finite"),
    "Soup#335": ("llama", ATTENTION, {"edit": renamed(PREFIX, f"_orig_mod.{PREFIX}")}, "broken", "_orig_mod"),
    "Automodel#3655": (
        "llama",
        ATTENTION,
        {"edit": renamed(PREFIX, f"thinker.{PREFIX}")},
        "broken",
        "thinker",
    ),
    "peft#1579": ("llama", ATTENTION, {"edit": renamed(f"{PREFIX}model.", PREFIX)}, "broken", "16 tensors"),
    "peft#2699": ("llama", ATTENTION, {"edit": renamed(".weight", ".lora.weight")}, "broken", "lora.weight"),
}
# thread -> (toy, targets, settings, server, verdict there, a word of a fault); good for `peft` itself
SERVED = {
    "vllm#49354": (
        "qwen3_5",
        ATTENTION,
        {"module": text_model_of_qwen},
        "vllm",
        "broken",
        "Qwen3_5ForConditional",
    ),
    "vllm#2847": ("llama", ATTENTION, {"r": 32}, "vllm", "warning", "--max-lora-rank 32"),
    "vllm#2847 above 512": ("llama", ATTENTION, {"r": 520}, "vllm", "broken", "520"),
    "vllm#23796": ("gemma3", ATTENTION, {}, "vllm", "warning", "6 modules"),
    "vllm#41384": (
        "qwen3_moe",
        ATTENTION,
        {"target_parameters": ["experts.down_proj"]},
        "vllm",
        "warning",
        "experts",
    ),
    "vllm peft_helper": ("llama", ATTENTION, {"use_dora": True}, "vllm", "broken", "use_dora"),
    "vllm scale": ("llama", ATTENTION, {"alpha_pattern": {"q_proj": 16}}, "vllm", "broken", "by 0.5"),
    "sglang#40835": ("llama", ATTENTION, {"use_rslora": True}, "sglang", "broken", "by 0.5"),
    "sglang#30499": ("qwen3_next", [*ATTENTION, "in_proj_ba"], {}, "sglang", "warning", "in_proj_ba"),
    "sglang lora_config": (
        "llama",
        ATTENTION,
        {"rank_pattern": {"q_proj": 8}},
        "sglang",
        "broken",
        "rank_pattern",
    ),
    "verl#7288": ("llama", r".*\.(q|v)_proj", {}, "sglang", "broken", "pattern"),
    "llama.cpp#11554": (
        "llama",
        ATTENTION,
        {"modules_to_save": ["lm_head"]},
        "llama.cpp",
        "broken",
        "modules_to_save",
    ),
    "llama.cpp#21125": (
        "qwen3_5_text",
        ["in_proj_qkv", "in_proj_z", "out_proj"],
        {},
        "llama.cpp",
        "broken",
        "out_proj",
    ),
    "llama.cpp scale": ("llama", ATTENTION, {"use_rslora": True}, "llama.cpp", "broken", "by 0.5"),
    "TuFT#149 tgi": ("nemotron_h", ATTENTION, {}, "tgi", "broken", "not every layer"),
}
GOOD = {
    "all linear layers": ("llama", [*ATTENTION, *MLP], {}),
    "a patterns of ranks with one scale": (
        "llama",
        ATTENTION,
        {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"q_proj": 16}},
    ),
    "peft#3554: the recurrent part left out": ("nemotron_h", ATTENTION, {}),
    "the recurrent part of a parallel hybrid": ("falcon_h1", [*ATTENTION, "in_proj"], {}),
    "old names of NemotronH": (
        "nemotron_h",
        ATTENTION,
        {"edit": renamed(f"{PREFIX}model.", f"{PREFIX}backbone.")},
    ),
    "old names of Gemma 3": (
        "gemma3",
        TEXT_MODEL,
        {"edit": renamed("model.language_model.", "language_model.model.")},
    ),
    "old names of LLaVA": (
        "llava",
        TEXT_MODEL,
        {"edit": renamed("model.language_model.", "language_model.model.")},
    ),
    "shared experts by their parameters": (
        "qwen3_next",
        ATTENTION,
        {"target_parameters": ["shared_expert.down_proj.weight"]},
    ),
    "images and texts": ("qwen2_5_vl", [*ATTENTION, "qkv"], {}),
    "a text model's own wrapper": ("qwen3_5", ATTENTION, {}),
    "layers of the type Conv1D": ("gpt2", ["c_attn"], {"fan_in_fan_out": True}),
    "embeddings": ("llama", [*ATTENTION, "embed_tokens", "lm_head"], {}),
    "a classifier": ("bert", ["query", "value"], {"task_type": "SEQ_CLS"}),
}


def written(folder, toy, targets, settings):
    if callable(settings.get("module")):
        settings = settings | {"module": settings["module"]()}
    return write_adapter(folder, toy, targets, **settings)


def by_name(table, names):
    return pytest.mark.parametrize(names, list(table.values()), ids=list(table))


def loads(toy, adapter):
    """Whether plain `peft` loads every tensor onto a model with weights, and some B is not zero."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(build(toy, device="cpu"), adapter)
    is_whole = not any("missing adapter keys" in str(each.message) for each in warned)
    return is_whole and any(p.any() for name, p in model.named_parameters() if ".lora_B" in name)


@by_name(LOCAL, ("toy", "targets", "settings", "verdict", "word"))
def test_fault_of_a_thread_is_found(toy, targets, settings, verdict, word, tmp_path):
    found = check(str(written(tmp_path, toy, targets, settings)))
    assert found.verdict == verdict
    assert any(word in each.text for each in found.findings), found.findings


@pytest.mark.parametrize("thread", ["Soup#335", "Automodel#3655", "peft#1579", "peft#453", "peft#1402"])
def test_peft_itself_leaves_such_an_adapter_without_effect(thread, tmp_path):
    toy, targets, settings, *_ = LOCAL[thread]
    assert not loads(toy, written(tmp_path, toy, targets, settings))


@by_name(SERVED, ("toy", "targets", "settings", "server", "verdict", "word"))
def test_fault_of_a_server_is_found(toy, targets, settings, server, verdict, word, tmp_path):
    found = check(str(written(tmp_path, toy, targets, settings)), serve_on=[server])
    assert found.findings == ()
    assert found.verdict_on(server) == verdict
    assert any(word in each.text and each.source for each in found.servers[server]), found.servers


@by_name(GOOD, ("toy", "targets", "settings"))
def test_good_adapter_has_no_finding_and_loads(toy, targets, settings, tmp_path):
    adapter = written(tmp_path, toy, targets, settings)
    found = check(str(adapter))
    assert (found.verdict, found.findings) == ("good", ())
    assert loads(toy, adapter)


def test_counts_are_those_of_peft_by_component(tmp_path):
    adapter = write_adapter(tmp_path, "qwen3_next", [*ATTENTION, "in_proj_ba"])
    found = check(str(adapter))
    model = peft.PeftModel.from_pretrained(build("qwen3_next", device="cpu"), adapter, is_trainable=True)
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    by_component = {
        each.component: (len(each.adapted), each.n_modules, each.n_params) for each in found.coverage
    }
    recurrent = sum(size for name, size in sizes.items() if "linear_attn" in name)
    assert by_component["recurrent"] == (1, 3, recurrent)
    assert by_component["attention"] == (4, 4, sum(sizes.values()) - recurrent)
    assert by_component["routed_experts"][0] == by_component["router"][0] == 0
    assert found.topology == "sequential hybrid, mixture of experts"


def test_servers_are_asked_about_only_where_they_serve(tmp_path):
    adapter = write_adapter(tmp_path, "bert", ["query"], task_type="SEQ_CLS")
    assert not check(str(adapter)).servers
    (fault,) = check(str(adapter), serve_on=["vllm"]).servers["vllm"]
    assert "modules_to_save" in fault.text


def invoke(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_exit_code_is_1_if_it_is_broken_here_or_on_a_server_that_was_named(tmp_path):
    adapter = write_adapter(tmp_path, "llama", ATTENTION, use_dora=True)
    assert invoke(adapter).exit_code == 0
    assert invoke(adapter / "adapter_config.json", "--serve-on", "tgi").exit_code == 1
    content = json.loads(invoke(adapter, "--serve-on", "tgi", "--json").stdout)
    assert content["verdict"] == "good" and content["servers"]["tgi"]["verdict"] == "broken"
    refused(invoke(adapter, "--serve-on", "triton"), 2, "triton", "vllm")


def test_text_fits_80_columns_and_shows_coverage(tmp_path, monkeypatch):
    adapter = write_adapter(tmp_path, "nemotron_h", [*ATTENTION, "gate_proj"], alpha_pattern={"q_proj": 16})
    monkeypatch.chdir(tmp_path)
    lines = invoke(adapter.name).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "recurrent        0           2           0" in lines and lines[-1] == "verdict: warning"


def test_weights_are_missed_in_a_folder_and_not_in_a_config(tmp_path):
    adapter = write_adapter(tmp_path, "llama", ATTENTION, weights=False)
    assert (check(str(adapter)).verdict, check(str(adapter / "adapter_config.json")).verdict) == (
        "warning",
        "good",
    )


def test_what_is_no_adapter_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(invoke("nobody/no-adapter"), 2, "nobody/no-adapter")
    adapter = write_adapter(tmp_path, "llama", ATTENTION)
    refused(invoke(adapter / "adapter_model.safetensors"), 2, "adapter_config.json")
    refused(invoke(adapter, "--model", tmp_path / "absent"), 2, "absent")
    (adapter / "adapter_config.json").write_text("{")
    refused(invoke(adapter), 2, "adapter_config.json")


@pytest.mark.parametrize("method", sorted(discover("autopeft.methods")))
def test_adapter_of_every_method_has_no_finding(method, make_base, make_plan, tmp_path):
    base = make_base("bert")
    base.module.config.architectures = [type(base.module).__name__]
    base.module.config.save_pretrained(tmp_path / "base")
    trained(base, make_plan(base, method), tmp_path / "adapter")
    found = check(str(tmp_path / "adapter"), model_id=str(tmp_path / "base"))
    assert (found.verdict, found.findings) == ("good", ())
    assert sum(each.n_params for each in found.coverage) > 0


def test_pickled_weights_are_not_read_and_not_called_broken(tmp_path):
    adapter = write_adapter(tmp_path, "llama", ATTENTION, weights=False)
    (adapter / "adapter_model.bin").write_bytes(b"pickle")
    (finding,) = check(str(adapter)).findings
    assert finding.severity == "warning" and "pickle" in finding.text
