"""Files of every format: cells stay as they are written, and unusual files are refused with their remedy."""

from __future__ import annotations

import json
import random

import datasets
import pandas as pd
import pytest

from autopeft.data import load
from autopeft.errors import DataError
from autopeft.plugins import discover
from autopeft.types import DataSpec

N = 90


def read(source, task="text-classification", **spec):
    read_rows = discover("autopeft.tasks")[task].read_rows
    return load(DataSpec(source=str(source), **spec), seed=0, read_rows=read_rows)


def write_lines(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def rows_of(data):
    return [(split.inputs, split.labels) for split in (data.train, data.search, data.confirm)]


def cells(data):
    return {
        text: label
        for inputs, labels in rows_of(data)
        for (text, *_), label in zip(inputs, labels, strict=True)
    }


@pytest.mark.parametrize(("suffix", "written"), [(".json", "{}"), (".jsonl", "{}T10:00:00")])
def test_strings_of_json_that_look_like_dates_stay_as_they_are(tmp_path, suffix, written):
    dates = [written.format(f"2021-03-{1 + i % 28:02d}") for i in range(N)]
    rows = [{"prompt": f"when {i}?", "completion": date} for i, date in enumerate(dates)]
    path = tmp_path / f"rows{suffix}"
    path.write_text("\n".join(map(json.dumps, rows)) if suffix == ".jsonl" else json.dumps(rows, indent=1))
    assert cells(read(path, "text-generation")) == {row["prompt"]: row["completion"] for row in rows}


@pytest.mark.parametrize("late", [{"extra": "x"}, {"extra": None}, {"extra": {"a": 1}}])
def test_keys_of_json_that_come_late_are_read(tmp_path, late):
    rows = [{"text": f"number {i}", "label": "ab"[i % 2]} | (late if i > 80 else {}) for i in range(N)]
    assert len(cells(read(write_lines(tmp_path / "rows.jsonl", rows)))) == N


def test_quoted_cells_are_read_back_as_pandas_wrote_them(tmp_path):
    draw = random.Random(0)
    texts = [f"{i} " + "".join(draw.choices("ab\",;\n'| ", k=12)) + "." for i in range(N)]
    frame = pd.DataFrame({"text": texts, "label": ["a", "b"] * (N // 2)})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    assert cells(read(tmp_path / "rows.csv")).keys() == set(texts)


def test_blanks_around_the_names_of_a_csv_do_not_count(tmp_path):
    lines = ["text , label", *(f"number {i}, {'ab'[i % 2]}" for i in range(N))]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    data = read(tmp_path / "rows.csv")
    assert (data.text_columns, data.label_names) == (("text",), ("a", "b"))


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.parquet", b"not parquet at all", "Parquet"),
        ("a.csv", "text,label\ncafé,1\n".encode("cp1252"), "encoding='cp1252'"),
        ("a.csv", "text,label\ncafé,1\n".encode("utf-16"), "encoding='utf-16'"),
        ("a.csv", b"text,label\nfine,1\nyes, it is,1\n", "line 3"),
        ("a.csv", b"text,label\nyes, it is,1\n", "header"),
        ("a.csv", b"text;label\nfine;1\n", "sep=';'"),
        ("a.tsv", b"text\tlabel\nfine\t1\n", "read_csv"),
        ("a.csv", b"text,label\n", "no rows"),
        ("a.csv", b"", "No columns"),
        ("a.json", b'{"text": "a", "lab', "line 1"),
        ("a.jsonl", b'{"text": "a", "label": 1}\nhello\n', "line 2"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n["b", 2]', "not a record"),
        ("a.xlsx", b"PK", r"\.csv"),
    ],
)
def test_file_that_cannot_be_read_is_refused(tmp_path, name, content, word):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=word) as caught:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("token-classification", {"tokens": ["it's", "b"], "tags": ["O", "B-X"]}),
        ("text-classification", {"text": "some text", "labels": ["a", "b"]}),
        ("text-generation", {"messages": [{"role": "user", "content": "hello"}]}),
    ],
)
def test_lists_that_a_csv_holds_as_text_are_refused(tmp_path, task, row):
    pd.DataFrame([row] * N).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(DataError, match="literal_eval"):
        read(tmp_path / "rows.csv", task)


def test_texts_that_begin_with_a_bracket_stay_texts(tmp_path):
    rows = [{"text": f"[sic] number {i}", "label": "[a]" if i % 2 else "b"} for i in range(N)]
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    assert read(tmp_path / "rows.csv").label_names == ("[a]", "b")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_group_of_whole_numbers_and_of_floats_is_one_group(tmp_path, suffix):
    train = [{"text": f"number {i}", "label": i % 2, "user": i // 4} for i in range(200)]
    train[-1]["user"] = None  # which makes the column one of floats
    held_out = [{"text": f"other {i}", "label": i % 2, "user": f"{i} "} for i in range(10)]
    for name, rows in (("train", train), ("validation", held_out)):
        frame, path = pd.DataFrame(rows), tmp_path / f"{name}{suffix}"
        frame.to_parquet(path) if suffix == ".parquet" else frame.to_csv(path, index=False)
    data = read(tmp_path, group_column="user")
    seen = {int(text.split()[1]) // 4 for split in (data.train, data.search) for (text,) in split.inputs}
    assert seen == set(range(10, 50))


CONLL_2003 = "{word} NN B-NP B-PER\n. . O O"
TABS = "{word}\tB-PER\n.\tO"


@pytest.mark.parametrize(("name", "block"), [("train.txt", CONLL_2003), ("rows.conll", TABS)])
def test_sentences_of_conll_files_are_rows_of_tokens(tmp_path, name, block):
    rows = [{"tokens": [f"word{i}", "."], "tags": ["B-PER", "O"]} for i in range(N)]
    text = "\n\n".join(block.format(word=f"word{i}") for i in range(N))
    (tmp_path / name).write_text(f"-DOCSTART- -X- -X- O\n\n{text}\n")
    in_json = read(write_lines(tmp_path / "rows.jsonl", rows), "token-classification")
    assert rows_of(read(tmp_path / name, "token-classification")) == rows_of(in_json)


def test_a_token_without_a_tag_is_refused(tmp_path):
    (tmp_path / "rows.conll").write_text("\n\n".join(f"word{i} O\nlonely" for i in range(N)))
    with pytest.raises(DataError, match="lonely"):
        read(tmp_path / "rows.conll", "token-classification")


@pytest.mark.parametrize("form", ["torch", "pandas"])
def test_a_saved_dataset_is_read_alike_whatever_its_format(tmp_path, form):
    rows = {"text": [f"sentence {i}" for i in range(60)], "label": [i % 3 for i in range(60)]}
    table = datasets.Dataset.from_dict(rows)
    table.save_to_disk(tmp_path / "plain")
    table.with_format(form).save_to_disk(tmp_path / "formatted")
    plain, formatted = (read(tmp_path / name) for name in ("plain", "formatted"))
    assert formatted.fingerprint == plain.fingerprint and formatted.label_names == ("0", "1", "2")
