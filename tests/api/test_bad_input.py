"""Models and rows that do not fit: one sentence names the fault, or the log says how it was mended.

`autopeft.analyze` prepares the same things as a search. The command line prints the same sentences.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import math
import re

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
import transformers
from PIL import Image
from toys.bases import toy_config
from toys.tasks import image_processor
from toys.words import CONTEXT, LABEL_NAMES, toy_rows
from typer.testing import CliRunner

import autopeft
from autopeft.cli.app import app
from autopeft.errors import DataError, ModelError

N = 100
TEXTS, LABELS = toy_rows(N, seed=0)
WORDS = [text.split() for text in TEXTS]
STRING = datasets.Value("string")
KINDS = {
    "text-classification": ("bert", "AutoModelForSequenceClassification"),
    "token-classification": ("bert", "AutoModelForTokenClassification"),
    "text-generation": ("llama", "AutoModelForCausalLM"),
    "text2text-generation": ("t5", "AutoModelForSeq2SeqLM"),
    "multiple-choice": ("bert", "AutoModelForMultipleChoice"),
    "image-classification": ("vit", "AutoModelForImageClassification"),
}


def module(task, n_outputs=2):
    architecture, auto_class = KINDS[task]
    config = toy_config(architecture)
    config.num_labels = n_outputs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, auto_class).from_config(config)


@pytest.fixture
def analyze(tokenizer, caplog):
    """A function: task, data and what differs -> the analysis, and what was logged on the way."""

    def analyze(task, data, *, score="parameters", **other):
        arguments = {"model": module(task), "tokenizer": tokenizer} | other
        if isinstance(arguments["model"], str):
            del arguments["tokenizer"]
        with caplog.at_level(logging.INFO):
            analysis = autopeft.analyze(
                data=data, task=task, scores=score, budget="30%", max_steps=4, batch_size=8, **arguments
            )
        return analysis, caplog.text

    return analyze


def parquet(path, columns, features, **other):
    """A Parquet file with the features of a dataset, and cells in a column that such a dataset refuses."""
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(path)
    table = pyarrow.parquet.read_table(path)
    for name, cells in other.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        table = table.set_column(place, field, pyarrow.array(cells, field.type))
    pyarrow.parquet.write_table(table, path)
    return str(path)


def changed(cells, row, value):
    cells = copy.deepcopy(list(cells))
    cells[row] = value
    return cells


# Labels.


def test_label_of_the_test_part_that_train_lacks(analyze):
    train = datasets.Dataset.from_dict({"text": TEXTS, "label": [LABEL_NAMES[i] for i in LABELS]})
    test = datasets.Dataset.from_dict({"text": ["so so"] * 3, "label": ["neg", "odd", "pos"]})
    with pytest.raises(
        DataError, match=r"^The test part has label 'odd' in row 2, which train lacks; correct"
    ):
        analyze("text-classification", datasets.DatasetDict(train=train, test=test))


@pytest.mark.parametrize("code", [2, 7, -3])
def test_code_of_a_label_that_the_column_does_not_declare(analyze, tmp_path, code):
    features = {"text": STRING, "label": datasets.ClassLabel(names=LABEL_NAMES)}
    file = parquet(
        tmp_path / "a.parquet", {"text": TEXTS, "label": LABELS}, features, label=changed(LABELS, 3, code)
    )
    with pytest.raises(
        DataError, match=rf"label {code} in row 4 of train is none of the 2 .* label declares \(neg, pos\)"
    ):
        analyze("text-classification", file)


def test_rows_whose_label_is_minus_one_have_none_and_it_is_logged(analyze):
    features = datasets.Features({"text": STRING, "label": datasets.ClassLabel(names=LABEL_NAMES)})
    data = datasets.Dataset.from_dict({"text": TEXTS, "label": changed(LABELS, 3, -1)}, features=features)
    _, log = analyze("text-classification", data)
    assert "Dropped 1 train row without a label." in log


@pytest.mark.parametrize("code", [-1, 2, 7])
def test_code_of_a_tag_that_the_column_does_not_declare(analyze, tmp_path, code):
    tags = [[len(word) % 2 for word in row] for row in WORDS]
    kind = datasets.Sequence(datasets.ClassLabel(names=["B-x", "O"]))
    bad = changed(tags, 3, changed(tags[3], 1, code))
    features = {"tokens": datasets.Sequence(STRING), "tags": kind}
    file = parquet(tmp_path / "a.parquet", {"tokens": WORDS, "tags": tags}, features, tags=bad)
    with pytest.raises(
        DataError, match=rf"label {code} in row 4 of train is none of the 2 .* tags declares \(B-x, O\)"
    ):
        analyze("token-classification", file)


def test_right_answer_that_is_none_of_the_choices(analyze):
    rows = [{"question": text, "choices": ["good", "bad"], "answer": i % 2} for i, text in enumerate(TEXTS)]
    rows[5]["answer"] = 2
    with pytest.raises(DataError, match="label '2' of row 6 of train names none of its 2 choices"):
        analyze("multiple-choice", datasets.Dataset.from_list(rows))


def test_token_and_tag_lists_of_different_length(analyze):
    tags = [["B-x" if len(word) % 2 else "O" for word in row] for row in WORDS]
    data = datasets.Dataset.from_dict({"tokens": WORDS, "tags": changed(tags, 3, tags[3][1:])})
    with pytest.raises(DataError, match=r"Row 4 of train has \d+ tokens? and \d+ tags? .* one tag for each"):
        analyze("token-classification", data)


@pytest.mark.parametrize("bad", [math.nan, None])
def test_missing_numbers_are_dropped_and_it_is_logged(analyze, bad):
    numbers = changed([i / 7 for i in range(N)], 5, bad)
    data = datasets.Dataset.from_dict({"text": TEXTS, "label": numbers})
    analysis, log = analyze(
        "text-classification", data, score="fisher", model=module("text-classification", 1)
    )
    assert "Dropped 1 train row without a label." in log
    assert all(np.isfinite(analysis.scores[0].values))


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_infinite_numbers_are_refused(analyze, bad):
    data = datasets.Dataset.from_dict({"text": TEXTS, "label": changed([i / 7 for i in range(N)], 5, bad)})
    with pytest.raises(
        DataError, match=rf"label holds '{bad}' in row 6 of train, the others are numbers; write"
    ):
        analyze("text-classification", data, model=module("text-classification", 1))


# Images.


def picture(seed):
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (10, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


BROKEN = {
    "empty": lambda content: b"",
    "text": lambda content: b"no image",
    "cut off": lambda content: content[:80],
    "damaged": lambda content: content[:60] + bytes([content[60] ^ 255]) + content[61:],
}


@pytest.mark.parametrize("broken", BROKEN)
def test_image_that_does_not_open_is_named_in_memory_and_on_the_command_line(analyze, tmp_path, broken):
    contents = changed([picture(i) for i in range(N)], 7, BROKEN[broken](picture(7)))
    rows = [
        {"image": {"bytes": c, "path": f"p{i}.png"}, "label": "ab"[i % 2]} for i, c in enumerate(contents)
    ]
    features = datasets.Features({"image": datasets.Image(), "label": STRING})
    with pytest.raises(
        DataError, match=r"The image p7\.png does not open \(.*\); replace it or leave"
    ) as caught:
        analyze(
            "image-classification",
            datasets.Dataset.from_list(rows, features=features),
            tokenizer=image_processor(),
        )
    assert "0x" not in str(caught.value)
    for i, content in enumerate(contents):
        file = tmp_path / "data" / "ab"[i % 2] / f"p{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    module("image-classification").save_pretrained(tmp_path / "model")
    image_processor().save_pretrained(tmp_path / "model")
    arguments = ["--model", tmp_path / "model", "--data", tmp_path / "data", "--task", "image-classification"]
    done = CliRunner().invoke(
        app, ["analyze", *map(str, arguments), "--budget", "30%", "--scores", "parameters"]
    )
    assert done.exit_code == DataError.exit_code
    assert f"error: The image {tmp_path / 'data' / 'b' / 'p7.png'} does not open (" in done.stderr
    assert "Traceback" not in done.stderr


def test_image_whose_file_is_gone_is_named(analyze, tmp_path):
    rows = [{"image": {"bytes": picture(i), "path": None}, "label": "ab"[i % 2]} for i in range(N)]
    rows[7]["image"] = {"bytes": None, "path": str(tmp_path / "p7.png")}
    features = datasets.Features({"image": datasets.Image(), "label": STRING})
    data = datasets.Dataset.from_list(rows, features=features)
    with pytest.raises(DataError, match=r"The data in memory names .*p7\.png, which does not exist; correct"):
        analyze("image-classification", data, tokenizer=image_processor())


# Texts that are too long.


def longer(n_long):
    return [" ".join([text] * 8) if i < n_long else text for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize(
    ("task", "pattern"),
    [
        ("text-generation", rf"train: \d+ of \d+ prompts lost their beginning: .* at most {CONTEXT} tokens"),
        (
            "text2text-generation",
            rf"train: \d+ of \d+ prompts and 0 completions were cut to {CONTEXT} tokens",
        ),
    ],
)
def test_prompts_longer_than_the_context_are_cut_and_logged(analyze, task, pattern):
    rows = [{"prompt": text, "completion": "good film"} for text in longer(20)]
    analysis, log = analyze(task, datasets.Dataset.from_list(rows), score="fisher", max_length=4 * CONTEXT)
    assert [line for line in log.splitlines() if re.search(pattern, line)]
    assert all(np.isfinite(analysis.scores[0].values))


def test_prompts_of_which_most_are_longer_than_the_context_are_refused(analyze):
    rows = [{"prompt": text, "completion": "good film"} for text in longer(N)]
    with pytest.raises(
        DataError, match=rf"\d+ of \d+ prompts do not fit into {CONTEXT} tokens .* shorten the prompts"
    ):
        analyze("text-generation", datasets.Dataset.from_list(rows), max_length=4 * CONTEXT)


def test_texts_longer_than_the_context_are_cut_and_logged(analyze):
    data = datasets.Dataset.from_dict({"text": longer(20), "label": [LABEL_NAMES[i] for i in LABELS]})
    _, log = analyze("text-classification", data, score="fisher", max_length=4 * CONTEXT)
    assert f"texts were cut to {CONTEXT} tokens; the longest has" in log


# Tokenizers.


def labelled(texts=TEXTS):
    return datasets.Dataset.from_dict({"text": texts, "label": [LABEL_NAMES[i] for i in LABELS]})


def test_tokenizer_without_padding_and_end_is_refused_and_one_with_an_end_pads_with_it(analyze, tokenizer):
    changed_tokenizer = copy.deepcopy(tokenizer)
    changed_tokenizer.pad_token = None
    with pytest.raises(ModelError, match="has neither a padding nor an end-of-text token; name one as pad"):
        analyze("text-classification", labelled(), tokenizer=changed_tokenizer)
    changed_tokenizer.eos_token = "[SEP]"
    first, log = analyze("text-classification", labelled(), tokenizer=changed_tokenizer, score="fisher")
    assert "has no padding token; its end-of-text token pads." in log
    second, _ = analyze("text-classification", labelled(), score="fisher")  # what pads does not matter
    assert first.scores[0].values == pytest.approx(second.scores[0].values, rel=1e-3, abs=1e-9)


def test_padding_token_that_the_model_does_not_know(analyze, tokenizer):
    changed_tokenizer = copy.deepcopy(tokenizer)
    changed_tokenizer.add_special_tokens({"pad_token": "[NEW]"})
    with pytest.raises(ModelError, match=r"pads with token 34, the model knows 34; name one of its own"):
        analyze("text-classification", labelled(), tokenizer=changed_tokenizer, score="fisher")


@pytest.mark.parametrize("task", ["text-classification", "text-generation", "text2text-generation"])
def test_words_that_the_model_does_not_know(analyze, tokenizer, task):
    """A token beyond the embeddings in one row of a split, not even in the longest one."""
    changed_tokenizer = copy.deepcopy(tokenizer)
    changed_tokenizer.add_tokens(["newword"])
    data = labelled(changed(TEXTS, 50, "newword"))
    if task != "text-classification":
        rows = [{"prompt": text, "completion": "good film on day"} for text in TEXTS]
        data = datasets.Dataset.from_list(changed(rows, 50, {"prompt": "a", "completion": "newword"}))
    with pytest.raises(ModelError, match="gives token 34, the model knows 34; put the tokenizer and the we"):
        analyze(task, data, tokenizer=changed_tokenizer)


@pytest.mark.parametrize("task", ["text-classification", "text-generation"])
def test_weights_with_another_vocabulary_than_the_config_are_refused(analyze, tokenizer, tmp_path, task):
    """transformers would leave the embeddings at random, and every number would be that of noise."""
    module(task).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 9}))
    data = labelled() if task == "text-classification" else datasets.Dataset.from_dict({"text": TEXTS})
    with pytest.raises(ModelError, match=r"with the shape \(34, 16\), its config\.json describes \(43, 16\)"):
        analyze(task, data, model=str(tmp_path))


# Heads of another size.


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "image-classification"])
def test_head_of_another_size_is_replaced_on_the_disk_and_refused_in_memory(
    analyze, tokenizer, tmp_path, task
):
    tags = [["B-x" if len(word) % 2 else "O" for word in row] for row in WORDS]
    rows = [{"image": {"bytes": picture(i), "path": None}, "label": "ab"[i % 2]} for i in range(N)]
    features = datasets.Features({"image": datasets.Image(), "label": STRING})
    data = {
        "text-classification": labelled(),
        "token-classification": datasets.Dataset.from_dict({"tokens": WORDS, "tags": tags}),
        "image-classification": datasets.Dataset.from_list(rows, features=features),
    }[task]
    reader = image_processor() if task == "image-classification" else tokenizer
    wide = module(task, 5)
    wide.save_pretrained(tmp_path)
    reader.save_pretrained(tmp_path)
    analysis, log = analyze(task, data, model=str(tmp_path), score="fisher")
    assert "has a head of 5 outputs and 2 are needed; a fresh head takes its place." in log
    n_head = sum(p.numel() for name, p in module(task).named_parameters() if name.startswith("classifier"))
    assert analysis.suggestion.head_params == n_head
    with pytest.raises(ModelError, match="has 5 outputs, the data has 2 labels; load it with num_labels=2"):
        analyze(task, data, model=wide, tokenizer=reader)
