"""A search to its verdict where the metric is no share of hits: a loss without bounds, and an entity F1."""

from __future__ import annotations

import json

import pytest
import transformers
from toys.bases import toy_config
from toys.words import toy_rows

from autopeft import commands
from autopeft.report.progress import Lines
from autopeft.types import BudgetSpec, DataSpec, ModelSpec, OutputSpec, RunSpec, SearchSpec, TaskSpec

WEIGHTS = "adapter_model.safetensors"


def completions(texts):
    return [{"prompt": text, "completion": " ".join(reversed(text.split()))} for text in texts]


def tagged(texts):
    words = [text.split() for text in texts]
    tags = [["B-long" if len(word) > 4 else "O" for word in row] for row in words]
    return [{"tokens": row, "tags": row_tags} for row, row_tags in zip(words, tags, strict=True)]


CASES = {
    "text-generation": ("llama", "AutoModelForCausalLM", completions, False),
    "token-classification": ("bert", "AutoModel", tagged, True),
}


@pytest.mark.parametrize("name", CASES)
def test_search_reaches_a_verdict_by_the_task_s_own_metric(name, tmp_path, tokenizer):
    architecture, auto_class, rows_of, greater_is_better = CASES[name]
    config = toy_config(architecture, hidden=32)
    getattr(transformers, auto_class).from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    texts, _ = toy_rows(160, seed=5)
    for split, part in {"train": texts[:100], "validation": texts[100:130], "test": texts[130:]}.items():
        lines = [json.dumps(row) + "\n" for row in rows_of(part)]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    spec = RunSpec(
        model=ModelSpec(id=str(tmp_path / "model")),
        data=DataSpec(source=",".join(str(tmp_path / f"{s}.jsonl") for s in ("train", "validation", "test"))),
        task=TaskSpec(name=name, max_steps=8, batch_size=8),
        budget=BudgetSpec(requested="5%"),
        search=SearchSpec(methods=("lora", "hira"), seeds=2),
        output=OutputSpec(out=str(tmp_path / "run")),
    )
    result, path = commands.run_search(spec, progress=Lines())
    assert result.setting.greater_is_better is greater_is_better
    assert result.verdict.label in ("better", "as good and smaller", "inconclusive", "default kept")
    assert greater_is_better or "points" not in result.verdict.sentence
    best, tested = result.full_runs[0], result.test[0]
    assert best.metric_std_error > 0 and tested.metric_std_error > 0
    means = [m.metric for m in result.measurements if m.plan == best.plan and m.fidelity.split == "confirm"]
    assert best.metrics == pytest.approx(tuple(means), abs=1e-6)
    for folder, all_rows in (("judged", False), ("weights", True)):
        again = commands.train_plan(path, out=tmp_path / folder, all_rows=all_rows).folder / WEIGHTS
        assert again.read_bytes() == (path / "best" / folder / WEIGHTS).read_bytes()
