"""A search on a quantized base model, from the settings to the files that plain peft loads."""

from __future__ import annotations

import shutil

import peft
import pytest
import torch
import transformers
from toys.quantized import QUANTIZED_MARKS, search_spec
from toys.specs import run_spec

import autopeft
from autopeft import commands, model
from autopeft.errors import SpecError
from autopeft.model.linear_layers import n_bits
from autopeft.model.quantization import quantization_config
from autopeft.report.page import python_lines
from autopeft.report.part_words import part_words
from autopeft.report.progress import Lines
from autopeft.setup.build import prepare

pytestmark = QUANTIZED_MARKS


@pytest.fixture(scope="module", params=["4bit", pytest.param("8bit", marks=pytest.mark.nightly)])
def run(request, model_dir, data_dir, tmp_path_factory):
    """A finished search: the bits, its result and its folder."""
    out = tmp_path_factory.mktemp("runs") / request.param
    # The scores are those of the judged adapter, which the exports are compared with.
    spec = search_spec(request.param, model_dir, data_dir, out, refit="off")
    result, path = commands.run_search(spec, progress=Lines())
    return request.param, result, path


def test_search_resumes_from_its_measurements(run, model_dir, data_dir, tmp_path):
    """The weights must come out alike in another load, or resuming is refused."""
    bits, result, finished = run
    path = shutil.copytree(finished, tmp_path / "run")
    log = path / "state" / "measurements.jsonl"
    log.write_text("".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[:-2]), encoding="utf-8")
    spec = search_spec(bits, model_dir, data_dir, path)
    again, _ = commands.run_search(spec, resume=True, progress=Lines())
    before, after = (
        {(m.plan, m.fidelity): m.loss for m in search.measurements} for search in (result, again)
    )
    assert len(before) >= 4
    assert before == after
    with pytest.raises(SpecError, match="quantize"):
        changed = search_spec("none", model_dir, data_dir, path)
        commands.run_search(changed, resume=True, progress=Lines())


def test_peft_alone_loads_the_adapter_onto_the_quantized_model(run, make_batch, monkeypatch):
    """By the lines of the report; its outputs are those that the run evaluated."""
    _, result, path = run
    monkeypatch.chdir(path)
    lines: dict = {}
    exec(python_lines(result, part_words(result)), lines)
    plain = lines["model"]
    for layer in plain.modules():  # bitsandbytes would round the weights once more on some processors
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    prepared = prepare(result.spec)
    configs = [peft.PeftConfig.from_pretrained("best/weights")]
    attaching = prepared.base.attached(configs, plan=result.best, task_type="SEQ_CLS", seed=0)
    batch = make_batch()
    with torch.no_grad(), attaching as attached:
        model.load_weights(attached, ["default"], path / "best" / "weights")
        expected = attached.eval()(**batch).logits
        logits = plain(**batch).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_merged_model_computes_what_was_trained(run, make_batch, tmp_path):
    _, result, path = run
    commands.export(path, "merged", tmp_path / "merged")
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    assert not any(n_bits(child) for child in merged.modules())
    prepared = prepare(result.spec)
    split = prepared.bench.splits["confirm"]
    with torch.no_grad():
        seen = prepared.bench.evaluate(merged, "confirm")
    (best, *_) = [m for m in result.measurements if m.plan == result.best and m.fidelity.split == "confirm"]
    assert len(split.labels) == len(best.example_scores)
    assert seen.loss == pytest.approx(best.loss, abs=1e-4 if result.spec.model.quantize == "4bit" else 0.02)


def test_train_takes_bits_device_and_dtype_over_the_plan_s(run, tmp_path):
    _, _, path = run
    requested = run_spec(quantize="none", device="cpu", dtype="bfloat16")
    folder = commands.train_plan(path, requested, out=tmp_path / "plain").folder
    assert "quantize" not in (folder / "plan.yaml").read_text(encoding="utf-8")
    folder = commands.train_plan(path, out=tmp_path / "as it was").folder
    assert f"quantize: {run[0]}" in (folder / "plan.yaml").read_text(encoding="utf-8")


def test_quantized_model_in_memory_comes_back_as_it_was(saved, data_dir, tmp_path):
    folder = saved("bert")
    module = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder,
        quantization_config=quantization_config("4bit", ["classifier"], dtype="bfloat16"),
        dtype=torch.float32,
    )
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    flags = {name: vars(child).get("support_avx512bf16_for_cpu") for name, child in module.named_modules()}
    result = autopeft.search(
        model=module,
        tokenizer=transformers.AutoTokenizer.from_pretrained(folder),
        data=data_dir,
        budget="5%",
        max_steps=4,
        batch_size=8,
        effort="quick",
        out=tmp_path / "run",
    )
    assert all(target.quantized for target in result.targets if target.kind == "linear")
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert flags == {name: vars(c).get("support_avx512bf16_for_cpu") for name, c in module.named_modules()}
