"""Base models in few bits by bitsandbytes: counted as before, learned on, loaded again by peft alone."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
import transformers
import yaml
from torch import nn
from toys.bases import AUTO_CLASSES, state_of, toy_config
from toys.words import LABEL_NAMES
from transformers.pytorch_utils import Conv1D
from typer.testing import CliRunner

import autopeft
from autopeft import model, pipeline
from autopeft.cli.app import app
from autopeft.cli.display import Silent
from autopeft.errors import ModelError, SpecError
from autopeft.extension import discover
from autopeft.model.quantising import quantisation_config, require_working_kernels
from autopeft.model.shapes import n_bits, plain_weight
from autopeft.pipeline.prepare import parse_budget, prepare
from autopeft.pipeline.searching import plan_document
from autopeft.records import ModelSpec, RunSpec
from autopeft.report.usage import python_lines
from autopeft.sensitivity import measure
from autopeft.store import read_plan, write_plan

bitsandbytes = pytest.importorskip("bitsandbytes", reason="needs the extra quantize, which dev holds")
pytestmark = [
    pytest.mark.skipif(
        "cpu" not in getattr(bitsandbytes, "supported_torch_devices", {"cpu"}),
        reason="this bitsandbytes has no kernels for the CPU",
    ),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
CLASSIFIER = "AutoModelForSequenceClassification"
by_bits = pytest.mark.parametrize("bits", ["4bit", "8bit"])
LLM = "llama-lm"


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tokenizer):
    """A function: architecture -> the folder of such a toy with all of its weights."""

    def save(architecture, *, hidden=32, **settings):
        folder = tmp_path_factory.mktemp("saved") / architecture
        auto = getattr(transformers, AUTO_CLASSES.get(architecture, CLASSIFIER))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = toy_config(architecture.removesuffix("-lm"), hidden=hidden)
            auto.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


def loaded(folder, bits, *, architecture="bert", **settings):
    """The toy as a search would load it."""
    auto_class = AUTO_CLASSES.get(architecture, CLASSIFIER)
    return model.load(
        ModelSpec(id=str(folder), quantize=bits),
        auto_class=auto_class,
        label_names=() if architecture.endswith("-lm") else LABEL_NAMES,
        needs_tokenizer=False,
        device="cpu",
        **settings,
    )


def asked(bits, model_dir, data_dir, out, **topics):
    """Settings of a small search; its best plan is one config, as one method is all there is."""
    search = {"trials": 4, "methods": ["lora"], **topics.pop("search", {})}
    return RunSpec.model_validate(
        {
            "model": {"id": str(model_dir), "quantize": bits},
            "data": {"source": str(data_dir)},
            "task": {"max_steps": 8, "batch_size": 8},
            "budget": {"requested": "5%"},
            "search": search,
            "confirm": {"fidelity": "full", "seeds": 2},
            "output": {"out": str(out)},
            **topics,
        }
    )


def plain_twin(base):
    """The same model with the weights that its bits stand for, by transformers' own way back."""
    twin = type(base.module).from_pretrained(
        base.name,
        quantization_config=base.module.config.quantization_config,
        dtype=torch.float32,
        device_map={"": "cpu"},
    )
    return twin.dequantize().eval()


# Counting.


@by_bits
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "t5-lm", LLM, "gpt2-lm", "moe-lm", "vit"])
def test_counts_and_sites_are_those_of_the_model_before(architecture, bits, saved):
    folder = saved(architecture)
    before, base = (loaded(folder, own, architecture=architecture) for own in ("none", bits))
    assert (base.base_params, base.head_params) == (before.base_params, before.head_params)
    assert base.base_params == sum(p.numel() for p in before.module.parameters()) - before.head_params
    # bitsandbytes makes linear maps of GPT-2's Conv1D, and says of which class they were.
    kinds = {site.name: site.kind for site in before.sites}
    as_before = [replace(site, quantised=False, kind=kinds[site.name]) for site in base.sites]
    assert as_before == list(before.sites)
    quantised = {site.name for site in base.sites if site.quantised}
    apart = {site.name for site in base.sites if site.name.endswith("DenseReluDense.wo")}
    assert quantised == {site.name for site in base.sites if site.kind == "linear"} - apart
    assert base.n_bits == int(bits[0])


@by_bits
def test_budget_is_a_share_of_the_model_before(bits, model_dir, data_dir, tmp_path):
    budgets = [
        parse_budget(prepare(asked(own, model_dir, data_dir, tmp_path / own)))[0] for own in ("none", bits)
    ]
    assert budgets[0] == budgets[1]
    parameters = sum(p.numel() for p in transformers.AutoModel.from_pretrained(model_dir).parameters())
    assert budgets[1].base_params == parameters
    assert budgets[1].max_trainable_params == parameters * 5 // 100


@by_bits
def test_plan_of_a_quantised_model_is_counted_from_its_config(
    bits, saved, methods, make_plan, data_dir, tmp_path
):
    """BitFit on GPT-2 goes through another tuner where its Conv1D have become linear maps."""
    folder = saved("gpt2")
    prepared = prepare(asked(bits, folder, data_dir, tmp_path))
    plan = make_plan(prepared.base, "bitfit")
    document = plan_document(prepared, plan)
    written = tmp_path / "plan.yaml"
    write_plan(written, document)
    assert read_plan(written) == document
    assert pipeline.count(written).trainable_params == plan.trainable_params


# Loading.


@by_bits
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_head_that_the_checkpoint_lacks_stays_in_float32(architecture, bits, tmp_path, tokenizer):
    """transformers 5.24 quantises it if left alone, and there is nothing in it then."""
    auto = transformers.AutoModel.from_config(toy_config(architecture, hidden=32))
    auto.save_pretrained(tmp_path)
    base = loaded(tmp_path, bits, architecture=architecture)
    (head,) = base.head_names
    layer = base.module.get_submodule(head)
    assert type(layer) is nn.Linear
    assert layer.weight.dtype == torch.float32
    again = loaded(tmp_path, "none", architecture=architecture).module.get_submodule(head)
    assert torch.equal(layer.weight, again.weight)  # drawn alike, as in every process


@by_bits
def test_pooler_that_the_checkpoint_lacks_stays_plain_and_is_trained_with_the_head(bits, tmp_path):
    bert = transformers.BertModel(toy_config("bert", hidden=32), add_pooling_layer=False)
    bert.save_pretrained(tmp_path)
    base = loaded(tmp_path, bits)
    assert base.head_names == ("classifier", "bert.pooler.dense")
    assert type(base.module.bert.pooler.dense) is nn.Linear
    assert {name for name, child in base.module.named_modules() if n_bits(child)} == {
        site.name for site in base.sites if site.kind == "linear"
    }


def test_output_layer_of_a_language_model_stays_plain(saved):
    base = loaded(saved(LLM), "4bit", architecture=LLM)
    assert type(base.module.lm_head) is nn.Linear


@by_bits
def test_causal_model_is_told_from_one_that_looks_ahead(bits, saved, tokenizer):
    loaded(saved(LLM), bits, architecture=LLM)
    folder = saved("bert")
    transformers.BertLMHeadModel(toy_config("bert", hidden=32)).save_pretrained(folder)
    with pytest.raises(ModelError, match="is no causal language model"):
        model.load(
            ModelSpec(id=str(folder), quantize=bits), auto_class="AutoModelForCausalLM", label_names=()
        )


def test_without_the_extra_the_error_says_how_to_install_it(model_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as Python notes a module that is not there
    with pytest.raises(
        ModelError, match=r'needs bitsandbytes; install it with: pip install "autopeft\[quant'
    ):
        loaded(model_dir, "4bit")


def test_device_without_kernels_is_refused(model_dir, monkeypatch):
    monkeypatch.setattr(bitsandbytes, "supported_torch_devices", {"cuda"})
    with pytest.raises(ModelError, match="bitsandbytes computes on cuda, not on cpu; pass another --device"):
        loaded(model_dir, "8bit")


def test_model_that_is_quantised_already_is_taken_as_it_is(saved, tmp_path):
    base = loaded(saved("bert"), "4bit")
    base.module.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"is quantised already \(bitsandbytes\); leave --quantize out"):
        loaded(tmp_path, "8bit")
    again = loaded(tmp_path, "none")
    assert (again.n_bits, again.base_params) == (4, base.base_params)
    assert again.sha256() == base.sha256()


def test_gguf_file_is_not_quantised(tmp_path):
    with pytest.raises(ModelError, match=r"is a GGUF file, .* or leave --quantize out"):
        loaded(tmp_path / "some.gguf", "4bit")


class Zero(bitsandbytes.nn.Linear4bit):
    """A map whose kernel is wrong."""

    def forward(self, x):
        return x.new_zeros((*x.shape[:-1], self.out_features)) + 0 * x.sum()


class Missing(bitsandbytes.nn.Linear4bit):
    """A map that has no kernel here."""

    def forward(self, x):
        raise NotImplementedError("no kernel for 'this machine'.")


@pytest.mark.parametrize(
    ("kind", "reason"), [(Zero, r"off by \d+% of the largest"), (Missing, "no kernel for 'this machine'")]
)
def test_maps_that_bitsandbytes_cannot_compute_are_refused(kind, reason):
    layer = kind(64, 8, bias=False, quant_type="nf4").to("cpu")
    with pytest.raises(
        ModelError, match=rf"toy has maps of 64 inputs and 8 outputs, .* \({reason}.*\); leave"
    ):
        require_working_kernels(nn.Sequential(layer), "toy")


def test_model_without_maps_is_refused():
    with pytest.raises(ModelError, match="toy has no linear map that bitsandbytes quantises"):
        require_working_kernels(nn.Sequential(nn.Conv2d(1, 1, 3)), "toy")


def test_model_in_memory_is_not_quantised(make_base, data_dir):
    base = make_base("bert")
    spec = RunSpec.model_validate(
        {"model": {"id": "<in memory>", "quantize": "4bit"}, "data": {"source": str(data_dir)}}
    )
    memory = pipeline.InMemory(model=base.module, tokenizer=base.tokenizer)
    with pytest.raises(ModelError, match="load it quantised and leave quantize out"):
        pipeline.search(spec, progress=Silent(), memory=memory)


# Computing.


@by_bits
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trial_leaves_the_quantised_model_as_it_was(bits, dtype, saved, make_bench, make_plan, fidelity):
    """Some processors store maps anew when these are evaluated; biases take on the type of the products."""
    base = loaded(saved("bert"), bits, dtype=dtype)
    base.tokenizer = transformers.AutoTokenizer.from_pretrained(base.name)
    bench = make_bench(base=base, dtype=dtype)
    before = state_of(base.module)
    plan = make_plan(base, [a for a in make_plan(base, "lora").adapters if a.site.endswith("query")])
    for chosen in (plan, make_plan(base, "bitfit"), make_plan(base, "ia3"), make_plan(base)):
        assert bench.measure(chosen, fidelity()).error is None  # else the base model was changed
    assert state_of(base.module) == before


@by_bits
def test_what_is_trained_is_in_float32_also_where_biases_are_not(bits, saved, make_plan, attach):
    base = loaded(saved("bert"), bits, dtype="bfloat16")
    base.name = "toy bert"
    plan = make_plan(base, [*make_plan(base, "bitfit").adapters[:4], *make_plan(base, "lora").adapters[4:]])
    with attach(base, plan) as attached:
        kinds = {p.dtype for p in attached.parameters() if p.requires_grad}
    assert kinds == {torch.float32}


@by_bits
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_every_method_with_every_choice_trains_where_it_says_that_it_fits(
    architecture, bits, saved, methods, make_bench, make_plan, fidelity
):
    base = loaded(saved(architecture), bits, architecture=architecture)
    base.tokenizer = transformers.AutoTokenizer.from_pretrained(base.name)
    bench = make_bench(base=base)
    failed = {}
    for name, method in methods.items():
        chosen = [{option: value} for option, values in method.choices.items() for value in values[1:]]
        for choices in [{}, *chosen]:
            plan = make_plan(base, name, rank=2, learning_rate=1e-3, **choices)
            if plan.adapters:
                failed[name, str(choices)] = bench.measure(plan, fidelity(train_steps=2)).error
    assert len(failed) >= 18
    assert {key: error for key, error in failed.items() if error is not None} == {}


@by_bits
def test_adapters_learn_on_a_quantised_model(bits, model_dir, make_bench, make_plan, fidelity):
    base = loaded(model_dir, bits)
    base.tokenizer = transformers.AutoTokenizer.from_pretrained(base.name)
    bench = make_bench(base=base)
    plan = make_plan(base, "lora", learning_rate=2e-2)
    short, long = (bench.measure(plan, fidelity(train_steps=steps)) for steps in (1, 60))
    assert short.loss - long.loss > 0.1


@by_bits
def test_plain_weights_are_those_that_transformers_reads_back(bits, saved):
    base = loaded(saved("bert"), bits)
    twin = plain_twin(base)
    for name, child in base.module.named_modules():
        if n_bits(child):
            torch.testing.assert_close(plain_weight(child), twin.get_submodule(name).weight.data)


@by_bits
def test_scores_are_those_of_the_model_that_the_bits_stand_for(bits, saved, make_batch, task):
    base = loaded(saved("bert"), bits)
    twin = plain_twin(base).requires_grad_(False)
    scores = [discover("autopeft.sensitivity")[name] for name in ("gradient", "fisher", "spectrum")]
    batches = [make_batch(seed=seed) for seed in range(2)]
    found, expected = (
        measure(scores, module, batches, base.sites, task=task, seed=0) for module in (base.module, twin)
    )
    for seen, own in zip(found.scores, expected.scores, strict=True):
        values, others = torch.tensor(seen.values), torch.tensor(own.values)
        off = float((values - others).norm() / others.norm())
        assert off < (1e-4 if bits == "4bit" else 0.1), seen.name  # 8 bits round the inputs as well
        linear = [value for value, site in zip(seen.values, base.sites, strict=True) if site.quantised]
        assert min(linear) > 0
    assert not [note for note in found.notes if "does not measure" in note]


@by_bits
@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_dequantised_model_computes_the_same_and_is_of_the_old_classes(architecture, bits, saved, batch_for):
    base = loaded(saved(architecture), bits, architecture=architecture)
    base.name = f"toy {architecture}"
    batch = batch_for(base)
    with torch.no_grad():
        before = base.module(**batch).logits
        model.dequantise(base.module)
        after = base.module(**batch).logits
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4 if bits == "4bit" else 0.05)
    assert base.n_bits == 0
    assert any(isinstance(child, Conv1D) for child in base.module.modules()) == (architecture == "gpt2")


# The whole way.


@pytest.fixture(scope="module", params=["4bit", "8bit"])
def run(request, model_dir, data_dir, tmp_path_factory):
    """A finished search: the bits, its result and its folder."""
    out = tmp_path_factory.mktemp("runs") / request.param
    result, path = pipeline.search(asked(request.param, model_dir, data_dir, out), progress=Silent())
    return request.param, result, path


def test_search_writes_down_how_the_base_model_is_quantised(run, data_dir):
    bits, result, path = run
    spec = yaml.safe_load((path / "run.yaml").read_text(encoding="utf-8"))
    plan = yaml.safe_load((path / "best" / "plan.yaml").read_text(encoding="utf-8"))
    assert spec["model"]["quantize"] == plan["base_model"]["quantize"] == bits
    assert result.setting.unquantised == ("classifier",)
    assert result.environment["bitsandbytes"] == bitsandbytes.__version__
    assert f"| quantised | {bits} by bitsandbytes |" in (path / "report.md").read_text(encoding="utf-8")
    assert pipeline.render(path).setting == result.setting


def test_search_goes_on_from_where_it_was(run, model_dir, data_dir, tmp_path):
    """The weights must come out alike in another load, or resuming is refused."""
    bits, result, finished = run
    path = shutil.copytree(finished, tmp_path / "run")
    spec = asked(bits, model_dir, data_dir, path, search={"trials": 5})
    extended, _ = pipeline.search(spec, given=frozenset({"search.trials"}), resume=True, progress=Silent())
    before, after = ({(m.plan, m.fidelity): m.loss for m in own.measurements} for own in (result, extended))
    common = before.keys() & after.keys()
    assert len(common) >= 4
    assert all(before[key] == after[key] for key in common)
    with pytest.raises(SpecError, match=r"model.quantize was '.bit' and cannot become 'none'"):
        changed = asked("none", model_dir, data_dir, path)
        pipeline.search(changed, given=frozenset({"model.quantize"}), resume=True, progress=Silent())


def test_peft_alone_loads_the_adapter_onto_the_quantised_model(run, make_batch, monkeypatch):
    """By the lines of the report; its outputs are those that the run evaluated."""
    _, result, path = run
    monkeypatch.chdir(path)
    lines: dict = {}
    exec(python_lines(result, CLASSIFIER), lines)
    plain = lines["model"]
    for layer in plain.modules():  # bitsandbytes would round the weights once more on some processors
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    prepared = prepare(result.spec)
    configs = [peft.PeftConfig.from_pretrained("best/weights")]
    lent = prepared.base.attached(configs, plan=result.best, task_type="SEQ_CLS", seed=0)
    batch = make_batch()
    with torch.no_grad(), lent as attached:
        model.load_weights(attached, ["default"], path / "best" / "weights")
        expected = attached.eval()(**batch).logits
        found = plain(**batch).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_merged_model_computes_what_was_trained(run, make_batch, tmp_path):
    _, result, path = run
    pipeline.export(pipeline.ExportRequest(to="merged", out=tmp_path / "merged", run=path))
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
    overrides = {"model.quantize": "none", "execution.device": "cpu", "execution.dtype": "bfloat16"}
    folder = pipeline.train_plan(path, out=tmp_path / "plain", overrides=overrides).folder
    assert "quantize" not in (folder / "plan.yaml").read_text(encoding="utf-8")
    folder = pipeline.train_plan(path, out=tmp_path / "as it was").folder
    assert f"quantize: {run[0]}" in (folder / "plan.yaml").read_text(encoding="utf-8")
    for name, word in (
        ("model.quantize", "3bit"),
        ("execution.dtype", "float8"),
        ("execution.device", "gpu"),
    ):
        with pytest.raises((SpecError, ModelError), match=word):
            pipeline.train_plan(path, out=tmp_path / "no", overrides={name: word})


def test_own_config_races_on_the_quantised_model(run, model_dir, data_dir, tmp_path):
    bits, _, _ = run
    own = peft.LoraConfig(r=2, target_modules=["query"], base_model_name_or_path=str(model_dir))
    own.save_pretrained(tmp_path / "own")
    spec = asked(
        bits, model_dir, data_dir, tmp_path / "run", search={"trials": 3, "baseline": str(tmp_path / "own")}
    )
    result, _ = pipeline.search(spec, progress=Silent())
    measured = [
        m for m in result.measurements if len(m.plan.adapters) == 2 and m.plan.trainable_params == 2 * 2 * 64
    ]
    assert measured
    assert all(m.error is None for m in measured)


def test_command_line_says_4bit_to_search_analyze_and_train(model_dir, data_dir, tmp_path):
    common = ["--model", model_dir, "--data", data_dir, "--quantize", "4bit", "--json"]
    few = ["--budget", "5%", "--max-steps", 4, "--batch-size", 8, "--trials", 2, "--confirm", "none"]
    out = tmp_path / "run"

    def told(*words):
        done = CliRunner().invoke(app, [*map(str, words)])
        assert (done.exit_code, done.stderr) == (0, "")
        return json.loads(done.stdout)

    assert Path(told("search", *common, *few, "--out", out)["run"]) == out
    assert "quantize: 4bit" in (out / "best" / "plan.yaml").read_text(encoding="utf-8")
    answer = told("analyze", *common, "--scores", "gradient", "--max-examples", 16)
    assert "--quantize 4bit" in answer["suggestion"]["search"]
    trained = told(
        "train", "--plan", out, "--quantize", "8bit", "--device", "cpu", "--out", tmp_path / "t", "--json"
    )
    assert Path(trained["out"], "adapter_model.safetensors").is_file()


def test_quantised_model_in_memory_comes_back_as_it_was(saved, data_dir, tmp_path):
    folder = saved("bert")
    module = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder,
        quantization_config=quantisation_config("4bit", ["classifier"], dtype="bfloat16"),
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
        trials=2,
        confirm="none",
        out=tmp_path / "run",
    )
    assert all(site.quantised for site in result.sites if site.kind == "linear")
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert flags == {name: vars(c).get("support_avx512bf16_for_cpu") for name, c in module.named_modules()}
