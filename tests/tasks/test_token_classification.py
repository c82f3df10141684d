"""Tags on pieces of words, entities against seqeval, and tag lists that cannot be used."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import transformers
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import nn

from autopeft.data import load, read_tokens
from autopeft.errors import DataError
from autopeft.plugins import LabelSpace, discover
from autopeft.types import DataSpec, TaskSpec

PLUGIN = discover("autopeft.tasks")["token-classification"]
NAMES = ("B-org", "B-place", "I-org", "I-place", "O")
TARGET = LabelSpace(kind="tags", names=NAMES)
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "new", "##port", "york", "is", "big", "##ger"]


@pytest.fixture(scope="module")
def pieces():
    """A tokenizer that cuts words: `newport` into `new ##port`, `bigger` into `big ##ger`."""
    words = Tokenizer(WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


class Saved(nn.Module):
    """Gives saved tags for the pieces of an example, whose number is its first id."""

    def __init__(self, guesses):
        super().__init__()
        self.guesses = guesses

    def forward(self, input_ids, **others):
        logits = torch.zeros(*input_ids.shape, len(NAMES))
        for row, ids in enumerate(input_ids):
            guesses = torch.tensor(self.guesses[int(ids[0])])
            logits[row, : len(guesses)] = nn.functional.one_hot(guesses, len(NAMES)).float()
        return SimpleNamespace(logits=logits)


def drawn_tags(seed, n=30):
    """Truth, and guesses that are right in two tags of three."""
    rng = np.random.default_rng(seed)
    truth = [rng.integers(0, 5, rng.integers(1, 9)).tolist() for _ in range(n)]
    return truth, [[t if rng.random() < 0.67 else int(rng.integers(0, 5)) for t in row] for row in truth]


def measured(truth, guesses, *, batch_size=7):
    task = PLUGIN.fitted(TaskSpec(metric="entity-f1"), TARGET)
    examples = [
        {"input_ids": [i] * len(row), "attention_mask": [1] * len(row)} for i, row in enumerate(truth)
    ]
    starts = range(0, len(truth), batch_size)
    batches = (task.collate(examples[i : i + batch_size], truth[i : i + batch_size], 0) for i in starts)
    return task.evaluate(Saved(guesses), batches)


def named(rows):
    return [[NAMES[tag] for tag in row] for row in rows]


def seqeval(truth, guesses):
    return f1_score(named(truth), named(guesses), zero_division=0)


@pytest.mark.parametrize("places", ["BIES", "BILU"])
def test_entities_of_all_short_texts_are_those_of_seqeval(places):
    names = ("O", *(f"{place}-{kind}" for place in places for kind in ("x", "x-y")))
    task = replace(PLUGIN, label_space=LabelSpace(kind="tags", names=names))
    as_iobes = [name[0].translate(str.maketrans("LU", "ES")) + name[1:] for name in names]
    for n in range(5):
        for tags in itertools.product(range(len(names)), repeat=n):
            assert task._entities(tags) == set(get_entities([as_iobes[tag] for tag in tags]))


def test_scores_are_the_jackknife_of_seqeval():
    truth, guesses = drawn_tags(1)
    whole, n = seqeval(truth, guesses), len(truth)
    without = [seqeval(truth[:i] + truth[i + 1 :], guesses[:i] + guesses[i + 1 :]) for i in range(n)]
    expected = whole + (n - 1) * (np.mean(without) - np.array(without))
    np.testing.assert_allclose(measured(truth, guesses).example_scores, expected, atol=1e-9)


def test_tags_are_on_the_first_piece_of_each_word(pieces):
    made = PLUGIN.encode([[("newport", "is", "bigger")], [("york", "?!")]], [(1, 4, 4), (1, 4)], pieces, 16)
    assert [pieces.convert_ids_to_tokens(example["input_ids"]) for example in made.examples] == [
        ["[CLS]", "new", "##port", "is", "big", "##ger", "[SEP]"],
        ["[CLS]", "york", "[UNK]", "[SEP]"],
    ]
    assert [row.tolist() for row in made.labels] == [[-100, 1, -100, 4, 4, -100, -100], [-100, 1, 4, -100]]
    assert made.notes == ()


def test_tags_that_were_cut_off_are_noted(pieces):
    made = PLUGIN.encode([[("newport", "is", "bigger", "york")]], [(1, 4, 4, 1)], pieces, 5)
    assert [row.tolist() for row in made.labels] == [[-100, 1, -100, 4, -100]]
    assert "2 of 4" in made.notes[0]


def test_byte_pieces_that_begin_with_the_space_belong_to_the_word_after_it(pieces):
    """GPT-2's pieces hold the space before their word; a stand-in has their offsets."""

    class Stub:
        is_fast = True

        def __call__(self, texts, **others):
            assert texts == ["ab c"]
            return {"input_ids": [[1, 2, 3]], "offset_mapping": [[(0, 1), (1, 2), (2, 4)]]}

    (row,) = PLUGIN.encode([[("ab", "c")]], [(0, 1)], Stub(), 9).labels
    assert row.tolist() == [0, -100, 1]


@pytest.mark.parametrize(
    ("names", "spec", "metric"),
    [
        (("B-a", "O"), {}, "entity-f1"),
        (("NOUN", "VERB"), {}, "token-accuracy"),
        (("B-a", "O"), {"metric": "token-accuracy"}, "token-accuracy"),
    ],
)
def test_metric_follows_the_tags(names, spec, metric):
    assert PLUGIN.fitted(TaskSpec(**spec), LabelSpace(kind="tags", names=names)).metric.name == metric


def test_entities_of_tags_without_places_are_refused():
    with pytest.raises(DataError, match="NOUN"):
        PLUGIN.fitted(TaskSpec(metric="entity-f1"), LabelSpace(kind="tags", names=("NOUN", "VERB")))


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(n):
    return [{"tokens": [f"w{i}", "in", "x"], "tags": ["O", "O", "B-place"]} for i in range(n)]


def read(path):
    return load(DataSpec(source=str(path)), seed=0, read_rows=read_tokens)


def test_tokens_and_tags_are_read_and_split(tmp_path):
    rows = rows_of(100)
    write(tmp_path / "train.jsonl", rows)
    write(
        tmp_path / "test.jsonl", [{"tokens": ["so"], "tags": ["I-org"]}, {"tokens": [], "tags": []}, rows[0]]
    )
    data = read(tmp_path)
    assert data.label_space == LabelSpace(kind="tags", names=("B-place", "I-org", "O"), counts=(44, 0, 88))
    assert data.train.labels[0] == (2, 2, 0)
    assert [len(split.inputs) for split in (data.train, data.search, data.confirm, data.test)] == [
        44,
        22,
        33,
        2,
    ]


def test_lists_that_do_not_match_are_refused(tmp_path):
    with pytest.raises(DataError, match="101"):
        read(write(tmp_path / "a.jsonl", [*rows_of(100), {"tokens": ["a", "b"], "tags": ["O"]}]))


def test_tokens_with_tag_minus_100_have_no_label(tmp_path, pieces):
    rows = [
        {"tokens": ["newport", "is", f"bigger{i}"], "tags": [-100, i % 2, 1 - i % 2] if i else [-100] * 3}
        for i in range(61)
    ]
    data = read(write(tmp_path / "a.jsonl", rows))
    parts = (data.train, data.search, data.confirm)
    assert data.label_space == LabelSpace(kind="tags", names=("0", "1"), counts=(len(data.train.labels),) * 2)
    assert {tags for split in parts for tags in split.labels} == {(-100, 0, 1), (-100, 1, 0)}
    assert sum(len(split.labels) for split in parts) == 60
    made = PLUGIN.encode([[("newport", "is", "bigger")]], [(-100, 0, 1)], pieces, 16)
    assert [row.tolist() for row in made.labels] == [[-100, -100, -100, 0, 1, -100, -100]]
    assert made.notes == ()


@pytest.mark.parametrize("hidden", [[-100] * 3, None])
def test_a_test_split_with_hidden_tags_is_left_out(tmp_path, hidden):
    feature = datasets.Sequence(datasets.ClassLabel(names=["O", "B-place"]))
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "tags": feature})
    rows = [{"tokens": [f"w{i}", "in", "x"], "tags": [0, 0, 1]} for i in range(60)]
    unseen = [{"tokens": [f"v{i}", "in", "x"], "tags": hidden} for i in range(9)]
    tables = {"train": rows, "test": unseen}
    datasets.DatasetDict(
        {part: datasets.Dataset.from_list(table, features=features) for part, table in tables.items()}
    ).save_to_disk(str(tmp_path / "saved"))
    data = read(tmp_path / "saved")
    assert data.label_names == ("O", "B-place") and data.test.inputs == ()


def test_a_table_of_one_token_a_row_is_refused(tmp_path):
    rows = [f"{i // 3},word{i},{'O' if i % 3 else 'B-x'}" for i in range(90)]
    (tmp_path / "rows.csv").write_text("\n".join(["sentence_id,Word,Tag", *rows]))
    with pytest.raises(DataError, match="groupby"):
        read(tmp_path / "rows.csv")
