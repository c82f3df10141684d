"""`autopeft export` on folders as they lie on the disk: what it writes, and what bad input gets."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from toys.counting import tiny_config
from toys.exports import logits_of, served, shake, trained, vllm
from typer.testing import CliRunner

from autopeft.cli.app import app
from autopeft.extension import discover
from autopeft.records import ModelSpec, PlanDocument, RunSpec
from autopeft.store import write_plan


def export(*arguments):
    return CliRunner().invoke(app, ["export", *(str(argument) for argument in arguments)])


def refused(result, code, *words):
    assert result.exit_code == code, result.output
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in result.output
    assert [word for word in words if word not in error] == []


def answer(*arguments):
    result = export(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory, make_base, tokenizer):
    """A tiny Llama on the disk, and the same in memory."""
    folder = tmp_path_factory.mktemp("llama")
    base = make_base("llama-lm")
    base.module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return base, folder


@pytest.fixture
def adapter(language_model, make_plan, tmp_path):
    """A function: method -> a trained toy, its folder pointing at the model on the disk."""

    def make(method="lora", **choices):
        base, model_dir = language_model
        base = copy.deepcopy(base)
        toy = trained(base, make_plan(base, method, **choices), tmp_path / "adapter")
        source = replace(toy.source, base_model=str(model_dir))
        discover("autopeft.exports")["native"].export(source, tmp_path / "native")
        return replace(toy, folder=tmp_path / "native")

    return make


def test_adapter_folder_becomes_a_uniform_lora(adapter, tmp_path):
    toy = adapter()
    told = answer("--adapter", toy.folder, "--to", "uniform-lora", "--out", tmp_path / "out")
    assert (told["format"], told["out"]) == ("uniform-lora", str(tmp_path / "out"))
    assert told["files"] == ["adapter_config.json", "adapter_model.safetensors"]
    assert any("--max-lora-rank" in note for note in told["notes"])
    torch.testing.assert_close(served(toy.raw, tmp_path / "out", vllm), toy.logits, rtol=0, atol=1e-5)


def test_adapter_folder_becomes_a_merged_language_model(adapter, tmp_path):
    toy = adapter("lora", dora=True)
    told = answer("--adapter", toy.folder, "--to", "merged", "--out", tmp_path / "out")
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= set(told["files"])
    module = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits_of(module), toy.logits, rtol=0, atol=1e-5)


def test_conversion_says_its_error_to_people_too(adapter, tmp_path):
    toy = adapter("oft")
    result = export("--adapter", toy.folder, "--to", "converted-lora", "--rank", 2, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    error = json.loads((tmp_path / "out" / "conversion.json").read_text())["relative_error"]
    assert f"relative error {error:.2e} in total" in result.stdout


@pytest.mark.parametrize("n_labels", [2, 5])
def test_adapter_of_plain_peft_with_a_head_of_any_size_is_merged(n_labels, model_dir, tmp_path):
    """Made with `peft` alone, on a base model without a head; the head's size is in its weights."""
    module = transformers.AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=n_labels)
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], r=3)
    model = peft.get_peft_model(module, config)
    shake(model)
    model.save_pretrained(tmp_path / "adapter")
    flags = ("--adapter", tmp_path / "adapter", "--model", model_dir)
    answer(*flags, "--to", "merged", "--out", tmp_path / "merged")
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits_of(merged), logits_of(model), rtol=0, atol=1e-5)
    assert merged.config.num_labels == n_labels
    answer(*flags, "--to", "uniform-lora", "--out", tmp_path / "uniform")
    assert load_file(tmp_path / "uniform" / "head.safetensors")["classifier.weight"].shape[0] == n_labels


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("whole", [["embed_tokens", "lm_head"], ["embed_tokens"], ["lm_head"]])
def test_modules_of_a_language_model_that_are_trained_whole_are_merged_and_not_served(tied, whole, tmp_path):
    config = tiny_config()
    config.tie_word_embeddings = tied
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "base")  # there is no tokenizer
    module = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    settings = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "modules_to_save": whole}
    model = peft.get_peft_model(module, peft.LoraConfig(**settings))
    shake(model)
    model.save_pretrained(tmp_path / "adapter")
    flags = ("--adapter", tmp_path / "adapter", "--out", tmp_path / "out")
    for to in ("uniform-lora", "converted-lora"):
        refused(export(*flags, "--to", to), 2, "modules_to_save", "read by none", "--to merged")
    told = answer(*flags, "--to", "merged")
    assert any("no tokenizer" in note for note in told["notes"])
    merged = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits_of(merged), logits_of(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_lora_on_embeddings_is_merged_where_nothing_else_is_tied_to_them(tied, tmp_path):
    """`peft` saves the embeddings themselves beside such an adapter."""
    config = tiny_config()
    config.tie_word_embeddings = tied
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    module = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    settings = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "embed_tokens"]}
    model = peft.get_peft_model(module, peft.LoraConfig(**settings))
    shake(model)
    model.save_pretrained(tmp_path / "adapter")
    flags = ("--adapter", tmp_path / "adapter", "--out", tmp_path / "out", "--to", "merged")
    if tied:
        refused(export(*flags), 2, "moves the outputs", "--to native")
        assert not (tmp_path / "out").exists()
    else:
        answer(*flags)
        merged = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out")
        torch.testing.assert_close(logits_of(merged), logits_of(model), rtol=0, atol=1e-5)


def test_adapter_of_a_vision_transformer_is_merged_without_a_tokenizer(tmp_path):
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.ViTConfig(**size, image_size=8, patch_size=4, num_labels=3)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "base")
    module = transformers.ViTForImageClassification.from_pretrained(tmp_path / "base")
    names = [name for name, own in module.vit.named_modules() if isinstance(own, torch.nn.Linear)]
    model = peft.get_peft_model(module, peft.LoraConfig(target_modules=names, modules_to_save=["classifier"]))
    shake(model)
    model.save_pretrained(tmp_path / "adapter")
    answer("--adapter", tmp_path / "adapter", "--out", tmp_path / "out", "--to", "merged")
    merged = transformers.ViTForImageClassification.from_pretrained(tmp_path / "out")
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen, expected = merged.eval()(pixels).logits, model.eval()(pixels).logits
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)


def test_adapter_without_the_head_that_the_base_model_lacks_is_refused(model_dir, tmp_path):
    module = transformers.AutoModelForSequenceClassification.from_pretrained(model_dir)
    model = peft.get_peft_model(module, peft.LoraConfig(target_modules=["query"]))
    model.peft_config["default"].task_type = "SEQ_CLS"
    model.save_pretrained(tmp_path / "adapter")
    flags = ("--adapter", tmp_path / "adapter", "--model", model_dir, "--to", "merged")
    refused(export(*flags, "--out", tmp_path / "out"), 2, "nor the adapter has weights for classifier.bias")
    assert not (tmp_path / "out").exists()


def test_labels_of_a_base_model_with_a_head_of_its_own_are_kept(model_dir, tmp_path):
    names = {0: "low", 1: "middle", 2: "high"}
    module = transformers.AutoModelForSequenceClassification.from_pretrained(model_dir, id2label=names)
    module.save_pretrained(tmp_path / "base")
    shutil.copy(model_dir / "tokenizer.json", tmp_path / "base")
    shutil.copy(model_dir / "tokenizer_config.json", tmp_path / "base")
    model = peft.get_peft_model(module, peft.LoraConfig(target_modules=["query"]))  # no task: no trained head
    shake(model)
    model.save_pretrained(tmp_path / "adapter")
    flags = ("--adapter", tmp_path / "adapter", "--to", "merged", "--out", tmp_path / "out")
    refused(
        export(*flags), 2, "nor the adapter has weights for classifier.bias"
    )  # not `base`, but without a head
    answer(*flags, "--model", tmp_path / "base")
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert merged.config.id2label == names
    torch.testing.assert_close(logits_of(merged), logits_of(model), rtol=0, atol=1e-5)


def test_place_that_cannot_be_written_is_named(adapter, tmp_path):
    toy = adapter()
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    refused(
        export("--adapter", toy.folder, "--to", "native", "--out", tmp_path / "file" / "out"),
        2,
        "pass another --out",
    )
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.fixture
def run_dir(bert, make_plan, model_dir, tmp_path):
    """A run as far as an export reads it: settings, the best plan, its configs and its weights."""
    module = transformers.AutoModelForSequenceClassification.from_pretrained(model_dir)
    bert.__init__(module, bert.tokenizer, name="toy bert", untrained=frozenset())
    plan = make_plan(bert, "lora", rank=2)
    best = tmp_path / "run" / "best"
    document = PlanDocument(
        plan=replace(plan, learning_rate=2e-3),
        model=ModelSpec(id=str(model_dir)),
        data=RunSpec().data,
        task=RunSpec().task,
        base_params=bert.base_params,
        head_params=bert.head_params,
        schedule="",
        seed=0,
    )
    write_plan(best / "plan.yaml", replace(document, schedule="linear"))
    (tmp_path / "run" / "run.yaml").write_text("{}\n", encoding="utf-8")
    toy = trained(bert, plan, best / "weights")
    discover("autopeft.exports")["native"].export(replace(toy.source, weights=()), best / "adapters")
    return tmp_path / "run", toy


def test_run_gives_its_trained_adapter(run_dir, tmp_path):
    path, toy = run_dir
    answer("--run", path, "--to", "merged", "--out", tmp_path / "out")
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits_of(merged), toy.logits, rtol=0, atol=1e-5)


def test_run_without_weights_gives_its_configs_and_no_weights(run_dir, tmp_path):
    path, _ = run_dir
    shutil.rmtree(path / "best" / "weights")
    told = answer("--run", path, "--to", "native", "--out", tmp_path / "out")
    assert told["files"] == ["adapter_config.json"]
    refused(
        export("--run", path, "--to", "uniform-lora", "--out", tmp_path / "other"),
        2,
        "no trained weights yet",
        "autopeft train",
    )
    assert not (tmp_path / "other").exists()


def test_run_that_has_not_finished_is_told_how_to_go_on(run_dir, tmp_path):
    path, _ = run_dir
    shutil.rmtree(path / "best")
    refused(
        export("--run", path, "--to", "native", "--out", tmp_path / "out"), 2, "no best plan yet", "--resume"
    )
    refused(export("--run", tmp_path, "--to", "native", "--out", tmp_path / "out"), 2, "has no run.yaml")


def as_pickle(toy):
    """The same adapter as older versions of `peft` wrote it."""
    weights = load_file(toy.folder / "adapter_model.safetensors")
    (toy.folder / "adapter_model.safetensors").unlink()
    torch.save(weights, toy.folder / "adapter_model.bin")


def test_pickle_is_read_only_where_that_is_asked_for(adapter, tmp_path):
    toy = adapter()
    as_pickle(toy)
    flags = ("--adapter", toy.folder, "--to", "uniform-lora", "--out", tmp_path / "out")
    refused(export(*flags), 2, "adapter_model.bin is a pickle", "--allow-pickle")
    answer(*flags, "--allow-pickle")
    torch.testing.assert_close(served(toy.raw, tmp_path / "out", vllm), toy.logits, rtol=0, atol=1e-5)


class Harmful:
    """An object whose pickle runs code when read."""

    def __reduce__(self):
        return (open, ("/nonexistent/harm", "w"))


@pytest.mark.parametrize("content", [{"a": Harmful()}, [1, 2], {"a": 3}])
def test_pickle_of_anything_but_tensors_is_refused(content, adapter, tmp_path):
    toy = adapter()
    as_pickle(toy)
    torch.save(content, toy.folder / "adapter_model.bin")
    flags = ("--adapter", toy.folder, "--to", "native", "--out", tmp_path / "out", "--allow-pickle")
    refused(export(*flags), 2, "adapter_model.bin")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_damaged_weights_are_refused_in_a_sentence(damage, adapter, tmp_path):
    toy = adapter()
    file = toy.folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-40] if damage is None else damage)
    refused(
        export("--adapter", toy.folder, "--to", "merged", "--out", tmp_path / "out"),
        2,
        "is damaged",
        file.name,
    )
    assert not (tmp_path / "out").exists()


def rewrite(toy, **fields):
    """The adapter's config with other values."""
    file = toy.folder / "adapter_config.json"
    content = json.loads(file.read_text(encoding="utf-8")) | fields
    file.write_text(json.dumps(content), encoding="utf-8")


def write_tensors(toy, change):
    file = toy.folder / "adapter_model.safetensors"
    save_file({key: own.clone() for key, own in change(load_file(file)).items()}, file)


@pytest.mark.parametrize("to", ["native", "uniform-lora", "merged"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda own: {key: tensor * float("nan") for key, tensor in own.items()}, ("not finite", "lora_A")),
        (lambda own: {}, ("holds no tensors",)),
        (lambda own: {key: t for key, t in own.items() if "lora_A" in key}, ("hold nothing as", "lora_B")),
        (lambda own: {key: t[:1] for key, t in own.items()}, ("hold 1 × ", "lora_A", "asks for")),
        (lambda own: {key.replace(".0.", ".7."): t for key, t in own.items()}, ("layers.0.", "hold nothing")),
    ],
)
def test_weights_that_are_not_those_of_the_config_are_refused(change, words, to, adapter, tmp_path):
    toy = adapter()
    write_tensors(toy, change)
    refused(export("--adapter", toy.folder, "--to", to, "--out", tmp_path / "out"), 2, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["native", "uniform-lora", "merged", "axolotl", "trl"])
@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"target_modules": ["query", "q_prj"]}, 3, ("query, q_prj", "nearest: ", "q_proj")),
        ({"r": 33, "rank_pattern": {}}, 3, ("rank 33", "16 × 16", "at most 16")),
        ({"r": "four"}, 2, ("r is 'four'", "a whole number")),
        ({"peft_type": "LORRA"}, 2, ("'LORRA'", "Did you mean 'LORA'?")),
    ],
)
def test_config_that_does_not_fit_its_base_model_is_refused(fields, code, words, to, adapter, tmp_path):
    toy = adapter()
    rewrite(toy, **fields)
    refused(export("--adapter", toy.folder, "--to", to, "--out", tmp_path / "out"), code, *words)
    assert not (tmp_path / "out").exists()


def test_adapter_of_another_architecture_is_refused(adapter, model_dir, tmp_path):
    toy = adapter()
    flags = ("--adapter", toy.folder, "--to", "native", "--out", tmp_path / "out")
    refused(export(*flags, "--model", model_dir), 3, str(model_dir), "which the model lacks")
    assert not (tmp_path / "out").exists()


def test_two_methods_on_one_site_are_refused(adapter, tmp_path):
    toy = adapter()
    for name in ("a", "b"):
        shutil.copytree(toy.folder, tmp_path / "mix" / name)
    (tmp_path / "mix" / "order.json").write_text('["a", "b"]', encoding="utf-8")
    flags = ("--adapter", tmp_path / "mix", "--to", "native", "--out", tmp_path / "out")
    refused(export(*flags), 3, "model.layers.0.self_attn.q_proj", "one site takes one method")
    assert not (tmp_path / "out").exists()


def test_base_model_that_is_not_at_hand_is_not_asked_for_where_its_name_is_enough(adapter, tmp_path):
    toy = adapter()
    rewrite(toy, base_model_name_or_path="somebody/somewhere")
    told = answer("--adapter", toy.folder, "--to", "native", "--out", tmp_path / "out")
    assert told["notes"] == ["not checked against somebody/somewhere, whose config is not at hand"]


def test_reader_of_a_tuner_of_ours_is_told_what_to_import(adapter, tmp_path):
    toy = adapter("bottleneck")
    told = answer("--adapter", toy.folder, "--to", "native", "--out", tmp_path / "out")
    assert any("import autopeft.methods.parts.bottleneck_tuner" in note for note in told["notes"])


def test_folder_with_files_is_left_alone(adapter, tmp_path):
    toy = adapter()
    refused(export("--adapter", toy.folder, "--to", "native", "--out", toy.folder), 2, "not empty", "--out")
    assert sorted(p.name for p in toy.folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--to", "uniformlora", "--adapter", "A"), ("uniform-lora", "known:")),
        (("--to", "native"), ("neither of --run and --adapter", "pass one")),
        (("--to", "native", "--run", "A", "--adapter", "A"), ("both of --run and --adapter",)),
        (("--to", "native", "--adapter", "A"), ("holds neither adapter_config.json nor order.json",)),
        (("--to", "merged", "--adapter", "A", "--rank", "3"), ("--rank is for --to converted-lora",)),
        (("--to", "converted-lora", "--adapter", "A", "--rank", "0"), ("at least 1",)),
        (("--to", "converted-lora", "--adapter", "A", "--energy", "1.5"), ("at most 1",)),
        (("--to", "converted-lora", "--adapter", "A", "--energy", "nan"), ("at most 1",)),
        (("--to", "converted-lora", "--adapter", "A", "--energy", "0.5", "--rank", "2"), ("pass one",)),
    ],
)
def test_flags_that_say_nothing_usable_are_a_usage_error(flags, words, tmp_path):
    (tmp_path / "A").mkdir()
    placed = [tmp_path / flag if flag == "A" else flag for flag in flags]
    refused(export(*placed, "--out", tmp_path / "out"), 2, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["A"]


def test_base_model_that_is_not_there_or_not_named_is_said(adapter, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    toy = adapter()
    flags = ("--adapter", toy.folder, "--to", "uniform-lora", "--out", tmp_path / "out")
    refused(export(*flags, "--model", tmp_path / "no-model"), 2, "no-model")
    file = toy.folder / "adapter_config.json"
    content = json.loads(file.read_text(encoding="utf-8")) | {"base_model_name_or_path": None}
    file.write_text(json.dumps(content), encoding="utf-8")
    refused(export(*flags), 2, "which base model it is for; pass --model")
    assert not (tmp_path / "out").exists()


def test_every_format_is_named_by_the_help():
    text = " ".join(export("--help").stdout.replace("│", " ").split())
    assert [name for name in discover("autopeft.exports") if name not in text] == []
