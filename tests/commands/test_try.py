"""What `try` answers, against plain transformers and peft on the weights of small searches."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from PIL import Image
from toys.specs import run_spec
from toys.tasks import ViTImageProcessorPil
from toys.words import VOCABULARY
from typer.testing import CliRunner

from autopeft import commands
from autopeft.cli.app import app
from autopeft.errors import DataError, SpecError
from autopeft.report.progress import Lines
from autopeft.store import RunDir

WORDS = VOCABULARY[4:]
CLASSIFIER = "AutoModelForSequenceClassification"
SETTINGS = {"max_steps": 3, "batch_size": 8, "budget": "6%", "effort": "quick", "methods": "lora"}


def sentence(draw):
    return " ".join(draw.choices(WORDS, k=draw.randint(3, 6)))


def row_of(name, draw):
    """One row of a kind of data."""
    text, words = sentence(draw), sentence(draw).split()
    return {
        "several": {"text": text, "label": draw.sample(["a", "b", "c"], 2)},
        "number": {"text": text, "label": round(draw.uniform(1, 5), 2)},
        "pair": {"premise": text, "hypothesis": sentence(draw), "label": draw.choice("xyz")},
        "tags": {"tokens": words, "tags": draw.choices(["O", "B-a"], k=len(words))},
        "completion": {"prompt": text, "completion": sentence(draw)},
    }[name]


TASKS = {"tags": "token-classification", "completion": "text-generation"}


@pytest.fixture
def make_run(model_dir, tmp_path):
    """A function: name of rows, model -> the folder of a finished search of LoRA on such rows."""

    def make(name, model=model_dir):
        draw = random.Random(0)
        for split, n_rows in (("train", 60), ("validation", 20)):
            rows = [json.dumps(row_of(name, draw)) for _ in range(n_rows)]
            (tmp_path / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
        spec = run_spec(
            model, tmp_path, task=TASKS.get(name, "text-classification"), out=tmp_path / "run", **SETTINGS
        )
        return commands.run_search(spec, progress=Lines())[1]

    return make


def by_peft(auto_class, model, run, **settings):
    base = getattr(transformers, auto_class).from_pretrained(model, **settings)
    return PeftModel.from_pretrained(base, run / "best" / "weights").eval()


def logits_of(auto_class, model, run, *texts, **settings):
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    with torch.inference_mode():
        return by_peft(auto_class, model, run, **settings)(**tokenizer(*texts, return_tensors="pt")).logits[0]


def test_a_text_gets_a_label_with_its_probability(finished, model_dir):
    reply, other = commands.try_run(finished, ["good film day", "bad"])
    assert (reply.input, other.input) == ("good film day", "bad")
    logits = logits_of(CLASSIFIER, model_dir, finished, "good film day", num_labels=2)
    assert list(reply.probabilities.values()) == pytest.approx(logits.softmax(-1).tolist(), abs=1e-5)
    assert reply.probabilities[reply.label] == max(reply.probabilities.values())


def test_the_command_prints_a_label_and_its_percents(finished):
    (reply,) = commands.try_run(finished, ["good"])
    printed = CliRunner().invoke(app, ["try", str(finished), "good"])
    assert printed.stdout.strip() == f"{reply.label} {100 * reply.probabilities[reply.label]:.0f} %"
    answer = json.loads(CliRunner().invoke(app, ["try", str(finished), "good", "bad", "--json"]).stdout)
    assert [reply["input"] for reply in answer["replies"]] == ["good", "bad"]


def test_a_file_instead_of_a_text_is_refused(finished, tmp_path):
    (tmp_path / "new.csv").write_text("text\ngood\n")
    asked = CliRunner().invoke(app, ["try", str(finished), "good", str(tmp_path / "new.csv")])
    assert asked.exit_code == SpecError.exit_code
    assert commands.try_run(finished, ["good " * 2000])[0].label  # too long for the name of a file


def test_several_labels_are_those_above_one_half(make_run, model_dir):
    run = make_run("several")
    (reply,) = commands.try_run(run, ["good film"])
    logits = logits_of(CLASSIFIER, model_dir, run, "good film", num_labels=3)
    assert list(reply.probabilities.values()) == pytest.approx(logits.sigmoid().tolist(), abs=1e-5)
    assert reply.labels == tuple(name for name, value in zip("abc", logits, strict=True) if value > 0)


def test_a_number_is_the_output_of_the_head(make_run, model_dir):
    run = make_run("number")
    (reply,) = commands.try_run(run, ["good film"])
    (expected,) = logits_of(CLASSIFIER, model_dir, run, "good film", num_labels=1)
    assert reply.number == pytest.approx(float(expected), abs=1e-5)
    trained = commands.train_plan(run, out=run.parent / "trained", all_rows=True).folder  # the same weights
    assert commands.try_run(trained, ["good film"]) == (reply,)


def test_texts_of_a_pair_follow_each_other(make_run, model_dir):
    run = make_run("pair")
    (reply,) = commands.try_run(run, ["good film", "bad day"])
    logits = logits_of(CLASSIFIER, model_dir, run, "good film", "bad day", num_labels=3)
    assert list(reply.probabilities.values()) == pytest.approx(logits.softmax(-1).tolist(), abs=1e-5)
    with pytest.raises(SpecError, match="premise"):
        commands.try_run(run, ["good", "bad", "day"])


def test_every_token_gets_a_tag(make_run, model_dir):
    run = make_run("tags")
    (reply,) = commands.try_run(run, ["good film day"])
    logits = logits_of("AutoModelForTokenClassification", model_dir, run, "good film day", num_labels=2)
    guesses = logits[1:-1].argmax(-1).tolist()  # without [CLS] and [SEP]
    names = RunDir.open(run).load_result().setting.label_names
    assert reply.tags == tuple(zip(("good", "film", "day"), (names[i] for i in guesses), strict=True))


def test_a_prompt_gets_what_the_model_writes_greedily(make_run, llama_with_weights):
    _, model = llama_with_weights
    run = make_run("completion", model)
    (reply,) = commands.try_run(run, ["good film"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    adapted = by_peft("AutoModelForCausalLM", model, run)
    ids = tokenizer("good film\n", add_special_tokens=True, return_tensors="pt")["input_ids"][:, :-1]
    n_free = adapted.config.max_position_embeddings - ids.shape[1]
    for _ in range(n_free):
        ids = torch.cat([ids, adapted(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    written = tokenizer.decode(ids[0, -n_free:], skip_special_tokens=True)
    assert reply.text and written.startswith(reply.text[:20])


def test_an_image_gets_a_label(tmp_path):
    shape = {"image_size": 16, "patch_size": 8, "hidden_size": 32, "intermediate_size": 64}
    config = transformers.ViTConfig(**shape, num_hidden_layers=2, num_attention_heads=2)
    model, data = tmp_path / "model", tmp_path / "data"
    transformers.ViTModel(config).save_pretrained(model)
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    processor.save_pretrained(model)
    draw = np.random.default_rng(0)
    for number in range(80):
        path = data / ("train", "validation")[number >= 60] / ("dark", "light")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 128, (16, 16, 3)) + 127 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    spec = run_spec(model, data, task="image-classification", out=tmp_path / "run", **SETTINGS)
    run = commands.run_search(spec, progress=Lines())[1]
    (reply,) = commands.try_run(run, [str(path)])
    features = processor(images=[Image.open(path)], return_tensors="pt")
    logits = by_peft("AutoModelForImageClassification", model, run, num_labels=2)(**features).logits[0]
    assert list(reply.probabilities.values()) == pytest.approx(logits.softmax(-1).tolist(), abs=1e-5)
    with pytest.raises(DataError, match="nowhere"):
        commands.try_run(run, ["nowhere.png"])
