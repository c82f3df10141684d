"""`pipeline` of transformers gives the scores that the labels mean: one label, several at once, a number."""

from __future__ import annotations

import json
import random

import pytest
import torch
import transformers
from toys.bases import adapters_of
from toys.exports import answer
from toys.words import VOCABULARY

from autopeft import model
from autopeft.commands import train_plan
from autopeft.plugins import discover
from autopeft.store import write_plan
from autopeft.types import DataSpec, ModelSpec, Plan, PlanDocument, RunSpec

WORDS = [word for word in VOCABULARY if word.isalpha()][:10]
TEXT = " ".join(WORDS[:5])
AUTO_CLASS = "AutoModelForSequenceClassification"
LABELS = {
    "class": (lambda words: "ab"[words[0] in WORDS[:5]], ("a", "b")),
    "classes": (lambda words: [c for c, word in zip("abc", WORDS, strict=False) if word in words], "abc"),
    "number": (lambda words: 5.0 + 0.7 * sum(map(WORDS.index, words)), ("label",)),
}


@pytest.fixture(scope="module", params=LABELS)
def trained(request, model_dir, tmp_path_factory):
    """The kind of the labels, and the folder of an adapter that `train` wrote for them."""
    label, names = LABELS[request.param]
    parent, draw = tmp_path_factory.mktemp(request.param), random.Random(0)
    for split, n_rows in (("train", 60), ("validation", 20)):
        rows = [draw.choices(WORDS, k=5) for _ in range(n_rows)]
        lines = [json.dumps({"text": " ".join(words), "label": label(words)}) for words in rows]
        (parent / "data").mkdir(exist_ok=True)
        (parent / "data" / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    base = model.load(ModelSpec(id=str(model_dir)), auto_class=AUTO_CLASS, label_names=names, device="cpu")
    lora = discover("autopeft.methods")["lora"]
    targets = [target for target in base.targets if target.role == "q"]
    adapters = tuple(adapters_of(lora, targets, rank=2))
    cost = sum(lora.cost(target, 2, {}) for target in targets)
    document = PlanDocument(
        plan=Plan(adapters=adapters, learning_rate=0.01, trainable_params=cost),
        model=ModelSpec(id=str(model_dir)),
        data=DataSpec(source=str(parent / "data")),
        task=short_task(),
        base_params=base.base_params,
        head_params=base.head_params,
        schedule="linear",
        seed=0,
    )
    write_plan(parent / "plan.yaml", document)
    return request.param, train_plan(parent / "plan.yaml", out=parent / "adapter").folder


def short_task():
    return RunSpec().task.model_copy(update={"max_steps": 3, "batch_size": 8})


def test_all_rows_are_trained_on_and_those_are_no_score(trained):
    kind, folder = trained
    names = {"class": "accuracy", "classes": "micro-f1", "number": "pearson"}
    plan, out = folder.parent / "plan.yaml", folder.parent / "all"
    of_all = train_plan(plan, out=out, all_rows=True)
    assert of_all.measurement.metric is of_all.measurement.loss is None and of_all.metric == names[kind]
    card = (out / "README.md").read_text()
    assert "80 train rows, including those of search and confirm" in card and "model-index" not in card
    lines = (folder.parent / "data" / "validation.jsonl").read_text()
    (folder.parent / "data" / "test.jsonl").write_text(lines)  # confirm loses what it shares with it
    tested = train_plan(plan, out=folder.parent / "tested", all_rows=True).measurement
    assert tested.fidelity.split == "test" and tested.fidelity.eval_examples == 20 and tested.loss


def scores_of(module, folder):
    """What the task means by the logits: a distribution, one probability for each label, or the number."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = module.eval()(**tokenizer(TEXT, return_tensors="pt")).logits[0]
    return tokenizer, {"class": logits.softmax(-1), "classes": logits.sigmoid(), "number": logits}


def test_merged_adapter_keeps_labels_and_their_meaning(trained, tmp_path):
    kind, folder = trained
    answer(folder, "--to", "merged", "--out", tmp_path / "out")
    module = getattr(transformers, AUTO_CLASS).from_pretrained(tmp_path / "out")
    _, expected = scores_of(module, folder)
    pipe = transformers.pipeline("text-classification", model=str(tmp_path / "out"), top_k=None)
    seen = {entry["label"]: entry["score"] for entry in pipe([TEXT])[0]}
    wanted = dict(zip(LABELS[kind][1], expected[kind].tolist(), strict=True))
    assert seen == pytest.approx(wanted, abs=1e-5)
