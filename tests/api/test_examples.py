"""The scripts and notebooks in examples/ run as they are."""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path

import pandas as pd
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from peft import PeftModel
from toys.words import LABEL_NAMES, toy_rows

import autopeft

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = ("quickstart.ipynb", "reading_a_result.ipynb")


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
    paths = ("--model", model_dir, "--data", data_dir, "--out", folder / "run")
    flags = (*paths, "--budget", "5%", "--max-steps", 6)
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
    assert "verdict: good" in capfd.readouterr().out  # of the commands that it starts


@pytest.fixture(scope="module")
def chat_model(llama_with_weights, tmp_path_factory):
    """The folder of a tiny Llama whose tokenizer has a chat template."""
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    folder = shutil.copytree(llama_with_weights[1], tmp_path_factory.mktemp("chat") / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_language_model_writes_an_answer(chat_model, tmp_path):
    texts, _ = toy_rows(160, seed=5)
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}]}
        for text in texts
    ]
    data = tmp_path / "chats.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = (
        *("--model", chat_model, "--data", data, "--budget", "5%"),
        *("--max-steps", 4, "--out", tmp_path / "run"),
    )
    assert example("chat.py", *flags, "--prompt", "a film", cwd=tmp_path)


def cells_of(notebook):
    """The code cells of a notebook, as they are committed."""
    cells = json.loads((EXAMPLES / notebook).read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def execute(notebook, parameters):
    """Run the code cells in one namespace; gives it, and what each cell would show at its end.

    As papermill does, `parameters` replace the values of the cell with the tag `parameters`.
    """
    names, shown = {}, []
    for cell in cells_of(notebook):
        source = TransformerManager().transform_cell("".join(cell["source"]))  # %pip becomes a call
        body = ast.parse(source).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), notebook, "exec"), names)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), notebook, "eval"), names))
        if "parameters" in cell["metadata"].get("tags", ()):
            assert parameters.keys() <= names.keys()
            names |= parameters
    return names, [value for value in shown if value is not None]


def test_notebooks_adapt_a_language_model_and_read_the_result(chat_model, tmp_path, monkeypatch, capsys):
    shutil.copytree(chat_model, tmp_path / "HuggingFaceTB/SmolLM2-135M-Instruct")
    texts, _ = toy_rows(160, seed=5)
    rows = pd.DataFrame({"prompt": texts, "completion": [text[::-1] for text in texts]})
    rows.to_csv(tmp_path / "restaurants.csv", index=False)
    monkeypatch.chdir(tmp_path)
    searched, shown = execute("quickstart.ipynb", {"BUDGET": "20%", "STEPS": 4, "TEXTS": ["a film"]})
    result, leaderboard, page = shown
    printed = capsys.readouterr().out
    assert result.verdict.sentence in printed and "with the adapter: " in printed
    assert "<table" in result._repr_html_() and "best" in leaderboard.answers[0]
    assert escape("<title>") in page.data
    assert isinstance(searched["adapted"], PeftModel)

    read, _ = execute("reading_a_result.ipynb", {})
    assert read["result"].best == result.best and read["plan"].plan == result.best
    assert int(read["trials"].shape[0]) == len(result.measurements)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook_is_committed_with_its_outputs(notebook):
    cells = cells_of(notebook)
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    for cell in cells:
        is_silent = {"setup", "parameters"} & {*cell["metadata"].get("tags", ())}
        assert is_silent or cell["outputs"], "".join(cell["source"])
        assert {"error"}.isdisjoint(output["output_type"] for output in cell["outputs"])
    shown = json.dumps([cell["outputs"] for cell in cells])
    assert re.findall(r"/(?:home|root|tmp|Users|content|work)/[^\s\"<]*|\\u001b", shown) == []


@pytest.mark.nightly
def test_notebooks_run_from_top_to_bottom_without_a_hub(tmp_path):
    for notebook in NOTEBOOKS:
        shutil.copy(EXAMPLES / notebook, tmp_path)
        command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--inplace", "--execute", notebook]
        subprocess.run(command, cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=True)
    assert (tmp_path / "reports/quickstart/best/weights/adapter_model.safetensors").is_file()


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
