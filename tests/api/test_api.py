"""Python as the command line: the same settings, and models and datasets that are in memory."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch
import transformers
from toys.bases import adapters_of, state_of
from toys.words import LABEL_NAMES, toy_rows
from typer.testing import CliRunner

import autopeft
from autopeft import api, pipeline
from autopeft.cli.app import app
from autopeft.cli.progress import Silent
from autopeft.errors import (
    AutopeftError,
    DataError,
    ModelError,
    RunDirError,
    SiteError,
    SpecError,
    UnknownNameError,
)
from autopeft.records import IN_MEMORY, SHORT_NAMES, DataSpec, ModelSpec, OutputSpec, RunSpec
from autopeft.store import RunDir

SMALL = {"budget": "5%", "max_steps": 8, "batch_size": 8, "trials": 6, "confirm_seeds": 2, "seed": 3}
RECORDING = {"autopeft": SimpleNamespace(search=lambda **asked: asked)}  # what a line of Python would ask


def dataset(n=120, seed=0):
    texts, labels = toy_rows(n, seed)
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=LABEL_NAMES)}
    )
    return datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)


def thrice():
    data = dataset().to_dict()
    return datasets.Dataset.from_dict({**data, "label": [("a", "b", "c")[i % 3] for i in range(120)]})


def weights_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(before, after):
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.fixture
def module(make_base):
    """A classifier as a user has it: in training mode, some of it frozen, a gradient somewhere."""
    module = make_base("bert").module.requires_grad_(True).train()
    first, second, *_ = module.parameters()
    first.requires_grad_(False)
    second.grad = torch.ones_like(second)
    return module


@pytest.fixture(scope="module")
def run(make_base, tokenizer, tmp_path_factory):
    """One search with everything in memory: the module, the state before, and the result."""
    module = make_base("bert").module.requires_grad_(True).train()
    before = weights_of(module), state_of(module), module.config.to_dict()
    data = datasets.DatasetDict(train=dataset(), validation=dataset(40, 1), test=dataset(40, 2))
    out = tmp_path_factory.mktemp("memory") / "run"
    result = autopeft.search(model=module, data=data, tokenizer=tokenizer, out=out, **SMALL)
    return module, before, result, data


def test_module_in_memory_comes_back_as_it_was(run):
    module, (weights, state, config), _, _ = run
    assert same(weights, weights_of(module))
    assert vars(state_of(module)) == vars(state)
    assert module.config.to_dict() == config


def test_a_search_in_memory_is_the_search_of_the_same_rows_on_the_disk(run, tokenizer, tmp_path):
    module, _, result, data = run
    module.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    for name, table in data.items():
        table.to_parquet(tmp_path / "data" / f"{name}.parquet")
    named = autopeft.search(model=tmp_path / "model", data=tmp_path / "data", out=tmp_path / "run", **SMALL)
    assert named.setting.data_fingerprint == result.setting.data_fingerprint
    assert [(m.plan, m.loss, m.metric) for m in named.measurements] == [
        (m.plan, m.loss, m.metric) for m in result.measurements
    ]


def test_the_run_says_that_model_and_data_were_in_memory(run):
    _, _, result, _ = run
    out = Path(result.spec.output.out)
    spec = RunDir.open(out).read_spec()
    assert (spec.model.id, spec.data.source) == (IN_MEMORY, IN_MEMORY)
    assert autopeft.load_plan(out).model.id == IN_MEMORY
    assert json.loads((out / "result.json").read_text())["base_model"] == "BertForSequenceClassification"
    assert "in memory" in (out / "report.md").read_text(encoding="utf-8")


def test_stream_in_memory_is_read_as_far_as_it_is_needed(module, tokenizer, tmp_path):
    stream = dataset().to_iterable_dataset()
    with pytest.raises(
        DataError, match=r"is a stream of unknown length; limit the rows to read by max_examples"
    ):
        autopeft.search(model=module, data=stream, tokenizer=tokenizer, out=tmp_path / "no", **SMALL)
    bounded = {**SMALL, "max_examples": 60, "confirm": "none", "trials": 2, "max_steps": 2}
    result = autopeft.search(model=module, data=stream, tokenizer=tokenizer, out=tmp_path / "run", **bounded)
    assert result.setting.splits.train + result.setting.splits.search == 60


def test_what_was_in_memory_is_asked_for_in_one_sentence_and_not_guessed(run):
    _, _, result, _ = run
    out = Path(result.spec.output.out)
    before = (out / "result.json").read_bytes()
    with pytest.raises(DataError, match=r"dataset of this run was an object in memory .* --data"):
        pipeline.search(RunSpec(output=OutputSpec(out=str(out))), resume=True, progress=Silent())
    with pytest.raises(DataError, match=r"dataset of this run was an object in memory .* --data"):
        pipeline.train_plan(out)
    with pytest.raises(ModelError, match=r"model of this run was in memory .* --model"):
        pipeline.count(out / "best" / "plan.yaml")
    assert (out / "result.json").read_bytes() == before


def test_a_run_is_continued_with_the_same_things_in_memory(run, tokenizer):
    module, _, result, data = run
    again = autopeft.search(
        model=module, data=data, tokenizer=tokenizer, out=result.spec.output.out, resume=True, trials=7
    )
    assert len(again.proposals) > len(result.proposals)
    assert again.measurements[:3] == result.measurements[:3]


def test_files_and_refusals_of_a_run_in_memory_say_what_to_do_in_python(run, tmp_path):
    module, _, result, _ = run
    out = Path(result.spec.output.out)
    own = {"run.yaml": out / "run.yaml", "plan.yaml": out / "best" / "plan.yaml"}
    for name, path in own.items():
        head = path.read_text(encoding="utf-8").split("schema_version")[0].split("model:")[0]
        assert "autopeft search" not in head and "autopeft train" not in head, name
    assert "autopeft.search('run.yaml', model=model, tokenizer=tokenizer, data=data)" in (
        own["run.yaml"].read_text(encoding="utf-8")
    )
    line = next(s for s in own["plan.yaml"].read_text(encoding="utf-8").splitlines() if "Train it" in s)
    path = str(own["plan.yaml"])
    applied = eval(
        line.removeprefix("# Train it: ").replace("plan.yaml", path),
        {"autopeft": autopeft, "model": copy.deepcopy(module)},
    )
    assert sum(p.numel() for p in applied.parameters() if p.requires_grad) > result.best.trainable_params
    told = CliRunner().invoke(app, ["report", str(out)])
    assert told.exit_code == 0, told.output
    assert f"train it in full: autopeft.apply(autopeft.load_plan({path!r}), model)" in told.stdout
    unfinished = tmp_path / "unfinished"
    shutil.copytree(out, unfinished)
    (unfinished / "state" / "search_result.json").unlink()
    with pytest.raises(RunDirError) as caught:
        RunDir.open(unfinished).load_result()
    asked = eval(str(caught.value).split("`")[1], RECORDING | {"model": 1, "tokenizer": 2, "data": 3})
    assert asked == {"model": 1, "tokenizer": 2, "data": 3, "out": str(unfinished), "resume": True}


def test_an_analysis_in_memory_says_how_to_go_on_in_python(module, tokenizer, tmp_path):
    data, out = dataset(), tmp_path / "analysis"
    asked = {"budget": "5%", "seed": 3, "label_column": "label", "text_column": ["text"]}
    found = autopeft.analyze(
        model=module, data=data, tokenizer=tokenizer, scores="uniform", max_steps=4, out=out, **asked
    )
    assert IN_MEMORY not in found.search_command
    names = {"model": module, "data": data, "tokenizer": tokenizer}
    again = eval(found.search_command, RECORDING | names)
    assert again == {**names, **asked}
    head = (out / "suggestion.yaml").read_text(encoding="utf-8").split("schema_version")[0]
    assert "autopeft.apply(autopeft.load_plan('suggestion.yaml'), model)" in head
    assert f"# Look for more: {found.search_command}\n" in head
    assert IN_MEMORY not in head and "autopeft train" not in head


def test_an_analysis_of_a_named_model_with_data_in_memory_names_the_model(model_dir):
    found = autopeft.analyze(model=model_dir, data=dataset(), scores="uniform", budget="5%", max_steps=4)
    assert found.search_command == f"autopeft.search(model={str(model_dir)!r}, data=data, budget='5%')"


def test_flags_of_the_command_line_and_arguments_are_one_table():
    from autopeft.cli.app import app

    (command,) = [own.callback for own in app.registered_commands if own.callback.__name__ == "search"]
    flags = set(command.__annotations__) - {"return"}
    not_settings = {"resume", "config", "assignments", "dry_run", "as_json", "quiet"}
    assert flags - not_settings == set(SHORT_NAMES)


def test_a_record_a_file_and_arguments_ask_the_same(tmp_path):
    record = RunSpec.model_validate({"model": {"id": "m"}, "search": {"trials": 5}})
    file = tmp_path / "run.yaml"
    file.write_text("model: {id: m}\nsearch: {trials: 5}\n", encoding="utf-8")
    nothing = {"model": None, "data": None, "tokenizer": None}
    asked = [
        api._asked(record, {}, **nothing),
        api._asked(file, {}, **nothing),
        api._asked(None, {"trials": 5}, **{**nothing, "model": "m"}),
        api._asked(record, {"search.trials": 5}, **nothing),
    ]
    assert {(spec.model.id, spec.search.trials, given) for spec, given, _ in asked} == {
        ("m", 5, frozenset({"model.id", "search.trials"}))
    }


def test_units_are_read_as_on_the_command_line():
    spec, _, _ = api._asked(
        None,
        {"max_time": "2m", "max_peak_memory": "1KiB", "budget": 300},
        model=None,
        data=None,
        tokenizer=None,
    )
    assert (spec.search.max_time_seconds, spec.limits.max_peak_bytes, spec.budget.requested) == (
        120,
        1024,
        "300",
    )


def test_unknown_argument_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"setting named 'trails'.*Did you mean 'trials'\?"):
        autopeft.search(trails=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda module, asked: asked.update(tokenizer=None), "its tokenizer is not; pass it as tokenizer="),
        (lambda module, asked: module.half(), "weights in float16.*model.float"),
        (lambda module, asked: asked.update(model=module.bert), "is a BertModel; the task needs one of Auto"),
        (lambda module, asked: asked.update(model=torch.nn.Linear(2, 2)), "is a Linear; pass a transformers"),
        (lambda module, asked: asked.update(model=3), "is a int; pass a transformers"),
        (
            lambda module, asked: asked.update(data=thrice()),
            r"has 2 outputs, the data has 3 labels; load it with num_labels=3\.",
        ),
    ],
)
def test_what_cannot_be_searched_in_memory_is_refused(module, tokenizer, tmp_path, change, message):
    asked = {"model": module, "data": dataset(), "tokenizer": tokenizer}
    change(module, asked)
    weights, state = weights_of(module), state_of(module)
    with pytest.raises(AutopeftError, match=message):
        autopeft.search(**asked, out=tmp_path / "run", **SMALL)
    assert same(weights, weights_of(module))
    assert vars(state_of(module)) == vars(state)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("data", [[1, 2], datasets.DatasetDict()])
def test_data_of_another_kind_is_refused(module, tokenizer, tmp_path, data):
    with pytest.raises(DataError, match=r"data in memory is a .*; pass a datasets\.Dataset"):
        autopeft.search(model=module, data=data, tokenizer=tokenizer, out=tmp_path / "run", **SMALL)


def test_fault_of_a_dataset_in_memory_does_not_speak_of_files_of_ours(module, tokenizer, tmp_path):
    data = datasets.DatasetDict(test=dataset())
    with pytest.raises(DataError) as caught:
        autopeft.search(model=module, data=data, tokenizer=tokenizer, out=tmp_path / "run", **SMALL)
    assert "autopeft-" not in str(caught.value)


def test_tokenizer_without_padding_is_left_as_it_is(make_base, tokenizer):
    own = copy.deepcopy(tokenizer)
    own.pad_token, own.eos_token = None, "[SEP]"
    module = make_base("gpt2").module
    pad = module.config.pad_token_id
    analysis = autopeft.analyze(
        model=module, data=dataset(), tokenizer=own, scores="uniform", budget="5%", max_steps=4
    )
    assert (own.pad_token, module.config.pad_token_id) == (None, pad)
    assert {score.name for score in analysis.scores} == {"uniform"}


def test_analysis_in_memory_gives_what_that_of_the_directory_gives(model_dir, tokenizer, data_dir):
    read = pipeline.analyze(
        RunSpec(model=ModelSpec(id=str(model_dir)), data=DataSpec(source=str(data_dir))),
        scores=["activation"],
        max_examples=32,
    )
    module = transformers.AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=2)
    module.config.id2label = dict(enumerate(LABEL_NAMES))
    data = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_csv(str(data_dir / f"{name}.csv"))
            for name in ("train", "validation", "test")
        }
    )
    found = autopeft.analyze(
        model=module, data=data, tokenizer=tokenizer, scores=["activation"], max_examples=32
    )
    assert found.scores[0].n_examples == read.scores[0].n_examples == 32
    by_name = dict(zip([s.name for s in read.sites], read.scores[0].values, strict=True))
    for site, value in zip(found.sites, found.scores[0].values, strict=True):
        if site.name in by_name:
            assert value == pytest.approx(by_name[site.name], rel=1e-5)


@pytest.mark.parametrize("method", ["lora", "ia3", "bitfit"])
def test_applied_plan_trains_its_adapters_and_the_head_alone(module, make_base, make_plan, batch_for, method):
    base = make_base("bert")
    plan = make_plan(base, method)
    before = weights_of(module)
    model = autopeft.apply(plan, module)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    n_head = sum(p.numel() for name, p in trained.items() if "classifier" in name)
    assert sum(p.numel() for p in trained.values()) == plan.trainable_params + n_head
    assert n_head == sum(p.numel() for name, p in before.items() if name.startswith("classifier"))
    assert model.training
    assert type(model).__name__ == "PeftModelForSequenceClassification"
    optimizer = torch.optim.AdamW(trained.values(), lr=plan.learning_rate)
    batch = batch_for(base)
    start = model(**batch).loss
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
    assert loss < start
    frozen = {name.replace("base_model.model.", ""): p for name, p in model.named_parameters()}
    kept = [name for name in before if name in frozen and not frozen[name].requires_grad]
    assert kept and all(torch.equal(frozen[name], before[name]) for name in kept)


def test_plan_of_a_run_is_applied_and_saved_as_peft_reads_it(run, make_base, tmp_path):
    from peft import PeftModel

    _, _, result, _ = run
    document = autopeft.load_plan(result.spec.output.out)
    assert document.plan == result.best
    model = autopeft.apply(document, make_base("bert").module, seed=5)
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(make_base("bert").module, tmp_path / "adapter")
    saved = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert saved and all(torch.equal(dict(again.named_parameters())[name], p) for name, p in saved.items())


def test_plan_that_does_not_fit_is_refused_and_leaves_the_module(module, make_base, make_plan):
    weights, state = weights_of(module), state_of(module)
    plan = make_plan(make_base("gpt2"), "lora")
    with pytest.raises(SiteError, match=r"BertForSequenceClassification has no site"):
        autopeft.apply(plan, module)
    wider = make_plan(make_base("bert", hidden=32), "lora")
    with pytest.raises(SpecError, match=r"The plan says .* trainable parameters"):
        autopeft.apply(wider, module)
    assert same(weights, weights_of(module))
    assert vars(state_of(module)) == vars(state)


def test_plan_of_a_mix_attaches_both_methods_and_saves_a_folder_each(
    module, make_base, make_plan, methods, tmp_path
):
    sites = make_base("bert").sites
    base = make_base("bert")
    mix = [
        *adapters_of(methods["lora"], sites[:8], rank=2),
        *adapters_of(methods["ia3"], sites[8:], rank=0),
    ]
    plan = make_plan(base, mix)
    model = autopeft.apply(plan, module)
    n_head = sum(p.numel() for name, p in module.named_parameters() if "classifier.modules_to_save" in name)
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert n_trained - n_head == plan.trainable_params
    model.save_pretrained(tmp_path / "mix")
    assert len(list((tmp_path / "mix").glob("*/adapter_model.safetensors"))) == 2


@pytest.mark.parametrize("plan", ["reports/run", None, 3])
def test_what_is_no_plan_is_refused(module, plan):
    with pytest.raises(SpecError, match="pass a Plan, or what load_plan reads"):
        autopeft.apply(plan, module)


def test_second_plan_on_one_module_is_refused(module, make_base, make_plan):
    plan = make_plan(make_base("bert"), "lora")
    model = autopeft.apply(plan, module)
    for holder in (model, module):
        with pytest.raises(ModelError, match="holds adapters of peft already"):
            autopeft.apply(plan, holder)


def test_names_are_there_and_heavy_ones_come_late():
    assert set(autopeft.__all__) <= set(dir(autopeft))
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        autopeft.serch  # noqa: B018
    code = "import autopeft, sys; autopeft.RunSpec, autopeft.AutopeftError; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
