"""Files read as they are written: dates of JSON, quotes that enclose no cells, rows that are too long."""

from __future__ import annotations

import csv
import json
import random

import pandas as pd
import pytest

from autopeft.data import load, read_language, read_texts
from autopeft.errors import DataError
from autopeft.types import DataSpec

N = 90
DATES = [f"2021-03-{1 + i % 28:02d}" for i in range(N)]
SIGNS = ['"', "'", ""]


def read(source, read_rows=read_texts, **spec):
    return load(DataSpec(source=str(source), **spec), seed=0, read_rows=read_rows)


def cells(data):
    splits = (data.train, data.search, data.confirm)
    return {
        text: label for split in splits for (text, *_), label in zip(split.inputs, split.labels, strict=True)
    }


def write_json(path, rows):
    path.write_text(
        "\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" else json.dumps(rows, indent=1)
    )
    return path


def write_tabs(path, texts):
    """A file with a line for each text and nothing quoted."""
    lines = ["text\tlabel", *(f"{text}\t{'ab'[i % 2]}" for i, text in enumerate(texts))]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(("suffix", "written"), [(".json", "{}"), (".jsonl", "{}T10:00:00")])
def test_strings_of_json_that_look_like_dates_stay_as_they_are(tmp_path, suffix, written):
    rows = [{"prompt": f"when {i}?", "completion": written.format(day)} for i, day in enumerate(DATES)]
    rows[3] = {"prompt": "and then?"}
    data = read(write_json(tmp_path / f"rows{suffix}", rows), read_language)
    assert cells(data) == {row["prompt"]: row["completion"] for row in rows if "completion" in row}


@pytest.mark.parametrize(
    "text",
    [
        lambda i: f'"number {i}' if i % 30 == 7 else f"number {i}",
        lambda i: f'"number {i}' if i % 30 == 7 else f'number {i}"' if i % 30 == 9 else f"number {i}",
        lambda i: f'"number" {i}',
    ],
    ids=["opened", "opened and closed", "inside"],
)
def test_quotes_that_enclose_no_cells_of_a_tsv_are_part_of_its_texts(tmp_path, text):
    data = read(write_tabs(tmp_path / "rows.tsv", [text(i) for i in range(N)]))
    assert cells(data).keys() == {text(i) for i in range(N)}


@pytest.mark.parametrize("more", ["\t", "\n", '"', '\t\t"\r\n'])
def test_quotes_that_enclose_cells_of_a_tsv_are_not_part_of_its_texts(tmp_path, more):
    texts = [f"{SIGNS[i % 3]}number{more if i % 5 else ' '}{i}" for i in range(N)]
    frame = pd.DataFrame({"text": texts, "label": ["a", "b"] * (N // 2)})
    frame.to_csv(tmp_path / "rows.tsv", sep="\t", index=False)
    data = read(tmp_path / "rows.tsv")
    assert cells(data).keys() == set(texts)


@pytest.mark.parametrize(
    ("suffix", "quoting"),
    [(".tsv", csv.QUOTE_ALL), (".tsv", csv.QUOTE_MINIMAL), (".csv", csv.QUOTE_MINIMAL)],
)
def test_a_lone_quote_that_swallows_cells_or_rows_is_refused(tmp_path, suffix, quoting):
    texts = [f'"so" {i}' if i % 10 == 4 else f"number {i}" for i in range(N)]
    frame = pd.DataFrame({"text": texts, "label": ["a", "b"] * (N // 2)})
    path, sign = tmp_path / f"rows{suffix}", "\t" if suffix == ".tsv" else ","
    frame.to_csv(path, sep=sign, index=False, quoting=quoting)
    lines = path.read_text().splitlines()
    lines[41] = '"' + lines[41].replace('"', "", 2)
    path.write_text("\n".join(lines))
    assert len(pd.read_csv(path, sep=sign).dropna()) < N  # pandas would lose them in silence
    with pytest.raises(DataError, match=rf"\{suffix} has a row that cannot be read in line 42 "):
        read(path)


@pytest.mark.parametrize("seed", range(2))
def test_whatever_a_writer_of_tables_quotes_is_read_back(tmp_path, seed):
    draw = random.Random(seed)
    texts = [f"{i} " + "".join(draw.choices("ab\",\t\n';| ", k=12)) + "." for i in range(N)]
    frame = pd.DataFrame({"text": texts, "label": ["a", "b"] * (N // 2)})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    assert cells(read(tmp_path / "rows.csv")).keys() == set(texts)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '{"text": "a", "label": 1}\n{"text": "b",\n"label": 2}',
            r"no whole JSON value in line 2 \('{\"text",
        ),
        (
            '{"text": "a", "label": 1} {"text": "b", "label": 1}',
            "no whole JSON value in line 1 .*: Extra data",
        ),
        ('{"text": "a", "label": 1}\n["b", 2]', r"\[\"b\", 2\] in line 2; a row is a record of columns"),
        ('["a", "b"]', r"\"a\" in row 1; a row is a record of columns"),
    ],
)
def test_json_that_is_no_record_a_line_and_no_list_of_records_is_refused(tmp_path, text, told):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(DataError, match=rf"rows\.jsonl has {told}"):
        read(tmp_path / "rows.jsonl")


def test_a_repeated_name_of_a_column_is_refused_and_columns_without_a_name_are_not(tmp_path):
    rows = [f"number {i},{'ab'[i % 2]},,{'cd'[i % 2]}," for i in range(N)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label,,other,", *rows]))
    assert read(tmp_path / "rows.csv").label_names == ("a", "b")
    (tmp_path / "rows.csv").write_text("\n".join(["text,label,,label,", *rows]))
    with pytest.raises(DataError, match=r"rows\.csv has several columns of the name 'label'; rename all but"):
        read(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("name", "head", "told"),
    [
        (
            "rows.csv",
            "text,label",
            r"has 3 cells in line 5 \('yes, it is,a'\) and 2 in its header \(text, l",
        ),
        ("rows.csv", "text,label,more\na,b,c", r"has 2 cells in line 3 .* and 3 in its header"),
        ("rows.csv", "# of May\ntext,label", r"has 2 cells in line 2 \('text,label'\) and 1 in its header"),
    ],
)
def test_the_first_line_with_more_or_fewer_cells_is_named(tmp_path, name, head, told):
    rows = [f"number {i},{'ab'[i % 2]}" for i in range(N)]
    (tmp_path / name).write_text("\n".join([head, *rows[:1], '"two\nlines",a', "yes, it is,a", *rows]))
    with pytest.raises(
        DataError, match=rf"^\S*{name} {told}.*; quote each cell that holds a ',' or a line end, and"
    ):
        read(tmp_path / name)
