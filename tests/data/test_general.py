"""General text that measures forgetting: the form of its sources, what is left out, what is refused."""

from __future__ import annotations

import json

import pytest

from autopeft.data import read_general
from autopeft.errors import DataError, UnknownNameError
from autopeft.records import ForgettingSpec

NEVER = 10**9


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def general(source, *, known=(), max_characters=NEVER, **spec):
    return read_general(
        ForgettingSpec(source=str(source), **spec), known=known, max_characters=max_characters
    )


def test_text_file_is_read_from_its_beginning_and_cut(tmp_path):
    whole = "".join(f"Paragraph {i} of it.\n\n" for i in range(100))
    (tmp_path / "book.txt").write_text(whole, encoding="utf-8")
    rows = general(tmp_path / "book.txt", max_characters=500)
    assert (rows.texts, rows.kind) == ((whole[:500],), "stream")
    assert rows.name == f"{tmp_path.name}/book.txt"
    left = general(tmp_path / "book.txt", known=["paragraph  3 OF it."])
    assert left.texts[0] == whole.replace("Paragraph 3 of it.\n\n", "")
    assert left.n_duplicates == 1


def test_corpus_is_read_where_models_are_trained_least(tmp_path):
    for split in ("train", "validation", "test"):
        write(tmp_path / f"{split}.jsonl", [{"story": f"{split} {i}"} for i in range(5)])
    rows = general(tmp_path)
    assert sorted(rows.texts) == [f"test {i}" for i in range(5)] and rows.kind == "documents"
    assert rows.name == f"{tmp_path.name}, test split"
    (tmp_path / "test.jsonl").unlink()
    assert general(tmp_path).name == f"{tmp_path.name}, validation split"
    (tmp_path / "train.jsonl").unlink()  # nothing is learned from it
    assert sorted(general(tmp_path).texts) == [f"validation {i}" for i in range(5)]


def test_documents_stand_in_one_random_order(tmp_path):
    write(tmp_path / "a.jsonl", [{"text": f"text {i:03d}"} for i in range(200)])
    first, second = general(tmp_path / "a.jsonl"), general(tmp_path / "a.jsonl", max_characters=80)
    assert first.texts[:10] == second.texts and sorted(first.texts) != list(first.texts)
    assert len({int(text[5:]) // 100 for text in second.texts}) == 2  # of both halves of the file


@pytest.mark.parametrize(
    ("row", "spec", "error", "words"),
    [
        (
            {"prompt": "a", "completion": "b"},
            {},
            DataError,
            "name the one with plain text by --set forgetting",
        ),
        ({"text": "a"}, {"text_column": "txt"}, UnknownNameError, "no column named 'txt'; known: text"),
        ({"text": [{"role": "user"}]}, {}, DataError, "cannot be read: Column text holds"),
        ({"text": " "}, {}, DataError, "as column text is blank"),
        ({"text": "a"}, {"config_name": "x"}, DataError, r"forgetting\.config_name 'x' is for hub ids"),
    ],
)
def test_source_without_plain_text_is_refused(row, spec, error, words, tmp_path):
    write(tmp_path / "a.jsonl", [row] * 3)
    with pytest.raises(error, match=words):
        general(tmp_path / "a.jsonl", **spec)


def test_absent_source_is_refused_with_the_flag(tmp_path):
    with pytest.raises(
        DataError, match=r"--forgetting cannot be read: The data path .*genral\.jsonl does not"
    ):
        general(tmp_path / "genral.jsonl")
