"""The scripts and notebooks in examples/ run as they stand."""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from toys.words import LABEL_NAMES, toy_rows

import autopeft

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name, *arguments, cwd):
    """What a script prints, in this process."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(printed):
        patched.setattr(sys, "argv", [name, *(str(argument) for argument in arguments)])
        patched.chdir(cwd)
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return printed.getvalue()


@pytest.fixture(scope="module")
def reviews(model_dir, data_dir, tmp_path_factory):
    """Where the example of a classification ran, and what it printed."""
    folder = tmp_path_factory.mktemp("example")
    flags = (
        "--model",
        model_dir,
        "--data",
        data_dir,
        "--budget",
        "5%",
        "--max-steps",
        6,
        "--out",
        folder / "run",
    )
    return folder, example("text_classification.py", *flags, cwd=folder)


def test_texts_are_classified_with_named_labels(reviews):
    _, printed = reviews
    *_, first, second = printed.splitlines()
    assert {line.partition(":")[0] for line in (first, second)} <= set(LABEL_NAMES)
    assert "trainable_params" in printed


@pytest.mark.nightly
def test_export_of_the_example_is_verified(reviews, capfd):
    folder, _ = reviews
    lora_or_not = json.loads((folder / "run/result.json").read_text())["best"]["plan"]["adapters"]
    if {adapter["method"] for adapter in lora_or_not} != {"lora"}:
        pytest.skip("the best plan of this run is no LoRA, which servers do not read")
    example("serving.py", folder / "run", folder / "lora", cwd=folder)
    assert "the same outputs" in capfd.readouterr().out  # of the commands that it starts


def test_language_model_writes_an_answer(llama_with_weights, tmp_path):
    _, model_dir = llama_with_weights
    texts, _ = toy_rows(160, seed=5)
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}]}
        for text in texts
    ]
    data = tmp_path / "chats.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    folder = shutil.copytree(model_dir, tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    flags = ("--model", folder, "--data", data, "--budget", "5%", "--max-steps", 4, "--out", tmp_path / "run")
    assert example("chat.py", *flags, "--prompt", "a film", cwd=tmp_path)


def execute(notebook, parameters):
    """Run the code cells in one namespace; gives it, and what each cell would show at its end.

    As papermill does, `parameters` replace the values of the cell with the tag `parameters`.
    """
    names, shown = {}, []
    for cell in json.loads((EXAMPLES / notebook).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert (cell["outputs"], cell["execution_count"]) == ([], None), "committed without outputs"
        body = ast.parse("".join(cell["source"])).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), notebook, "exec"), names)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), notebook, "eval"), names))
        if "parameters" in cell["metadata"].get("tags", ()):
            assert parameters.keys() <= names.keys()
            names |= parameters
    return names, [value for value in shown if value is not None]


@pytest.mark.nightly
def test_notebooks_search_and_read_the_result(model_dir, data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = {"budget": "5%", "trials": 6, "max_steps": 8, "batch_size": 8}
    settings |= {"out": tmp_path / "run"}
    searched, shown = execute(
        "quickstart.ipynb", {"MODEL": str(model_dir), "DATA": str(data_dir), "SETTINGS": settings}
    )
    result, leaderboard, labels = shown
    assert searched["result"].verdict.sentence in capsys.readouterr().out
    assert "<table" in result._repr_html_() and set(leaderboard.plan_id) >= {result.best.digest}
    assert set(labels.values()) <= set(LABEL_NAMES)

    read, _ = execute("reading_a_result.ipynb", {"RUN": str(tmp_path / "run")})
    assert read["result"].best == result.best and read["plan"].plan == result.best
    assert int(read["trials"].shape[0]) == len(result.measurements)


def test_own_trainer_of_the_example_ends_in_a_verdict(model_dir, data_dir, tmp_path):
    printed = example("own_trainer.py", model_dir, data_dir, 4, tmp_path / "study", cwd=tmp_path)
    assert "confirm rows" in printed
    assert (tmp_path / "study/best/weights/adapter_model.safetensors").is_file()


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["own_sft.py", "own_dpo.py"])
def test_trainer_of_trl_ends_in_a_verdict(name, make_base, tokenizer, tmp_path):
    sample, folder = Path(autopeft.__file__).parent / "sample_data/uci_sentiment", tmp_path / "llama"
    make_base("llama-lm", hidden=128).module.save_pretrained(folder)  # rank 16 is too much for smaller ones
    ending = copy.deepcopy(tokenizer)
    ending.eos_token = ending.convert_ids_to_tokens(3)  # trl ends each text with it
    ending.save_pretrained(folder)
    printed = example(name, folder, sample, 4, tmp_path / "study", cwd=tmp_path)
    assert "confirm rows" in printed
