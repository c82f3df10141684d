"""`autopeft check` on adapters that reproduce public threads, and on good ones, next to what `peft` loads."""

from __future__ import annotations

import json
import warnings

import peft
import pytest
from check_threads import FAULTS, GOOD
from toys.adapters import ATTENTION, write_adapter
from toys.commands import refused, run
from toys.exports import trained
from toys.topologies import build

from autopeft.commands import check
from autopeft.plugins import discover


def loads(case, adapter):
    """Whether plain `peft` loads every tensor onto a model with weights, and some B is not zero."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(build(case.toy, device="cpu"), adapter)
    is_whole = not any("missing adapter keys" in str(each.message) for each in warned)
    return is_whole and any(p.any() for name, p in model.named_parameters() if ".lora_B" in name)


@pytest.mark.parametrize("thread", FAULTS)
def test_fault_of_a_thread_is_found(thread, tmp_path):
    case = FAULTS[thread]
    found = check(str(case.write(tmp_path)), serve_on=[case.server] if case.server else ())
    assert case.is_expected(found), case.statements(found)


@pytest.mark.parametrize(
    "thread", ["Soup#335", "Automodel#3655", "peft#1579", "peft#453", "peft#1402", "colpali#424"]
)
def test_peft_itself_leaves_such_an_adapter_without_effect(thread, tmp_path):
    assert not loads(FAULTS[thread], FAULTS[thread].write(tmp_path))


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.fault)
def test_good_adapter_has_no_finding_and_loads(case, tmp_path):
    adapter = case.write(tmp_path)
    found = check(str(adapter))
    assert (found.verdict, found.findings) == ("good", ())
    assert loads(case, adapter)


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


def test_exit_code_is_1_if_it_is_broken_here_or_on_a_server_that_was_named(tmp_path):
    adapter = write_adapter(tmp_path, "llama", ATTENTION, use_dora=True)
    assert run("check", adapter).exit_code == 0
    assert run("check", adapter / "adapter_config.json", "--serve-on", "sglang").exit_code == 1
    content = json.loads(run("check", adapter, "--serve-on", "sglang", "--json").stdout)
    assert content["verdict"] == "good" and content["servers"]["sglang"]["verdict"] == "broken"
    refused(run("check", adapter, "--serve-on", "triton"), 2, "triton", "vllm")


def test_text_fits_80_columns_and_shows_coverage(tmp_path, monkeypatch):
    adapter = write_adapter(tmp_path, "nemotron_h", [*ATTENTION, "gate_proj"], alpha_pattern={"q_proj": 16})
    monkeypatch.chdir(tmp_path)
    lines = run("check", adapter.name).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "recurrent        0           2           0" in lines and lines[-1] == "verdict: warning"


def test_weights_are_missed_in_a_folder_and_not_in_a_config(tmp_path):
    adapter = write_adapter(tmp_path, "llama", ATTENTION, weights=False)
    assert check(str(adapter)).verdict == "broken"
    assert check(str(adapter / "adapter_config.json")).verdict == "good"


@pytest.mark.parametrize(("head", "verdict"), [(None, "broken"), (["lm_head"], "warning")])
def test_scale_of_zero_leaves_what_else_was_trained(head, verdict, tmp_path):
    adapter = write_adapter(tmp_path, "llama", ATTENTION, lora_alpha=0, modules_to_save=head)
    assert check(str(adapter)).verdict == verdict


def test_what_is_no_adapter_is_refused(tmp_path):
    refused(run("check", "nobody/no-adapter"), 2, "nobody/no-adapter")
    adapter = write_adapter(tmp_path, "llama", ATTENTION)
    refused(run("check", adapter / "adapter_model.safetensors"), 2, "adapter_config.json")
    refused(run("check", adapter, "--model", tmp_path / "absent"), 2, "absent")
    (adapter / "adapter_config.json").write_text("{")
    refused(run("check", adapter), 2, "adapter_config.json")


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
    (adapter / "adapter_model.safetensors").write_bytes(b"damaged")
    assert check(str(adapter)).verdict == "broken"
