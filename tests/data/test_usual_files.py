"""Files as people have them: Alpaca's columns, lists inside of a CSV, semicolons, clones of hub datasets."""

from __future__ import annotations

import gzip
import json

import datasets
import pandas as pd
import pytest
from sklearn.datasets import load_files

from autopeft.data import load
from autopeft.errors import DataError
from autopeft.plugins import discover
from autopeft.types import DataSpec

N = 90
PLUGINS = ("train", "search", "confirm")


def read(source, task="text-classification", **spec):
    read_rows = discover("autopeft.tasks")[task].read_rows
    return load(DataSpec(source=str(source), **spec), seed=0, read_rows=read_rows)


def write(path, rows, **options):
    pd.DataFrame(rows).to_csv(path, index=False, **options)
    return path


def write_lines(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def prompts(data):
    return sorted(text for part in PLUGINS for (text,) in getattr(data, part).inputs)


def rows_of(data):
    return [(getattr(data, part).inputs, getattr(data, part).labels) for part in PLUGINS]


@pytest.mark.parametrize(
    ("prompt", "more", "completion"),
    [
        ("instruction", "input", "output"),
        ("instruction", "context", "response"),
        ("question", "context", "answer"),
    ],
)
def test_the_further_column_of_a_prompt_is_part_of_it(tmp_path, prompt, more, completion):
    """Rows with one instruction and several inputs are no duplicates; a blank input adds nothing."""
    rows = [
        {prompt: f"do {i // 3}", more: f"with {i}" if i % 3 else "", completion: "done"} for i in range(N)
    ]
    data = read(write_lines(tmp_path / "rows.jsonl", rows), "text-generation")
    assert prompts(data) == sorted(f"do {i // 3}\n\nwith {i}" if i % 3 else f"do {i // 3}" for i in range(N))
    assert f"The model learns to write {completion} after {prompt} and {more}." in data.notes


def test_named_columns_of_a_prompt_are_joined_in_their_order(tmp_path):
    rows = [{"b": f"b {i}", "a": f"a {i}", "answer": "yes"} for i in range(N)]
    path = write(tmp_path / "rows.csv", rows)
    data = read(path, "text-generation", text_columns=("a", "b"), label_column="answer")
    assert prompts(data) == sorted(f"a {i}\n\nb {i}" for i in range(N))
    with pytest.raises(DataError, match=r"is a, b; give one, the text, or name the completion"):
        read(path, "text-generation", text_columns=("a", "b"))


@pytest.mark.parametrize(
    ("task", "written", "row"),
    [
        ("token-classification", str, lambda i: {"tokens": ["it's", f"{i}"], "tags": ["O", "B-X"]}),
        (
            "text-classification",
            json.dumps,
            lambda i: {"text": f"text {i}", "labels": [["a"], ["a", "b, c"]][i % 2]},
        ),
        (
            "text-generation",
            str,
            lambda i: {
                "messages": [
                    {"role": "user", "content": f"hello {i}"},
                    {"role": "assistant", "content": 'it\'s "you"'},
                ]
            },
        ),
        (
            "multiple-choice",
            json.dumps,
            lambda i: {"question": f"which {i}?", "choices": ["x", "y", "z"], "answer": "ABC"[i % 3]},
        ),
    ],
)
def test_lists_that_a_csv_holds_as_text_are_lists(tmp_path, task, row, written):
    rows = [row(i) for i in range(N)]
    texts = [{k: written(v) if isinstance(v, list) else v for k, v in each.items()} for each in rows]
    in_csv = read(write(tmp_path / "rows.csv", texts), task)
    in_json = read(write_lines(tmp_path / "rows.jsonl", rows), task)
    assert rows_of(in_csv) == rows_of(in_json)
    assert in_csv.label_space == in_json.label_space


def test_texts_in_brackets_stay_texts(tmp_path):
    rows = [{"text": f"[sic] number {i}", "label": "[a]" if i % 2 else "[b]"} for i in range(N)]
    data = read(write(tmp_path / "rows.csv", rows))
    assert data.label_names == ("[a]", "[b]")
    assert data.train.inputs[0][0].startswith("[sic] number ")


def test_semicolons_and_blanks_in_the_header_change_no_row(tmp_path):
    rows = [{"text": f"number {i}", "label": "ab"[i % 2]} for i in range(N)]
    usual = read(write(tmp_path / "comma.csv", rows))
    assert rows_of(read(write(tmp_path / "semicolon.csv", rows, sep=";"))) == rows_of(usual)
    assert rows_of(read(write(tmp_path / "tab.csv", rows, sep="\t"))) == rows_of(usual)
    spaced = [{" Text ": r["text"], " label": f" {r['label']}", "other": "some words"} for r in rows]
    assert rows_of(read(write(tmp_path / "blanks.csv", spaced))) == rows_of(usual)
    rows = [{" Instruction": f"do {i}", " output ": "done", "input ": "with"} for i in range(N)]
    data = read(write(tmp_path / "pairs.csv", rows), "text-generation")
    assert prompts(data) == sorted(f"do {i}\n\nwith" for i in range(N))


@pytest.mark.parametrize(
    ("header", "separator"),
    [
        ("text|label", "|"),
        ('"text, full";label', ";"),
        ("text;label;notes, other", ";"),
        ('"text;a;b","label"', ","),
        ('"a\n""text"", b"|label', "|"),
    ],
)
def test_the_separator_is_the_sign_that_cuts_the_header_and_the_rows_alike(tmp_path, header, separator):
    more = header.count(separator) == 2
    rows = [f'"first{separator} second, {i}"{separator}{"ab"[i % 2]}{separator * more}' for i in range(N)]
    (tmp_path / "rows.csv").write_text("\n".join([header, *rows]))
    data = read(tmp_path / "rows.csv")
    assert prompts(data) == sorted(f"first{separator} second, {i}" for i in range(N))
    assert data.label_names == ("a", "b")


def test_files_of_the_only_folder_inside_are_read_and_of_several_one_must_be_named(tmp_path):
    rows = [{"text": f"number {i}", "label": "ab"[i % 2]} for i in range(N)]
    for name in ("en", "de"):
        (tmp_path / name / "data").mkdir(parents=True)
        pd.DataFrame(rows).to_parquet(tmp_path / name / "data" / "train-00000-of-00001.parquet")
    (tmp_path / "en" / "README.md").write_text("about")
    assert rows_of(read(tmp_path / "en")) == rows_of(read(tmp_path / "en" / "data"))
    (tmp_path / "de" / "more").mkdir()
    (tmp_path / "de" / "more" / "train.csv").write_text("text,label\nx,a\n")
    with pytest.raises(DataError, match=r"holds no data file; name one of its folders that do: data, more\."):
        read(tmp_path / "de")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_packed_file_is_read_as_what_it_holds(tmp_path, suffix):
    rows = [{"text": f"number {i}", "label": "ab"[i % 2]} for i in range(N)]
    plain = tmp_path / f"rows{suffix}"
    (write if suffix == ".csv" else write_lines)(plain, rows)
    packed = tmp_path / f"rows{suffix}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert (read(packed).name, rows_of(read(packed))) == ("rows", rows_of(read(plain)))
    for damaged in (packed.read_bytes()[:100], b"no gzip"):
        packed.write_bytes(damaged)
        with pytest.raises(
            DataError, match=rf"rows\{suffix}\.gz holds no rows or is no UTF-8 {suffix[1:]} file: "
        ):
            read(packed)


CONLL_2003 = "{word} NN B-NP B-PER\n# # # O\n. . O O"
MULTI_CONER = "# id 5239{word}\tdomain=train\n{word} _ _ B-PER\n# _ _ O\n. _ _ O"
TABS = "{word}\tB-PER\n#\tO\n.\tO"


@pytest.mark.parametrize(
    ("name", "block"), [("train.txt", CONLL_2003), ("rows.conll", MULTI_CONER), ("rows.conll", TABS)]
)
def test_sentences_of_conll_files_are_rows_of_tokens(tmp_path, name, block):
    rows = [{"tokens": [f"word{i}", "#", "."], "tags": ["B-PER", "O", "O"]} for i in range(N)]
    text = "\n\n".join(block.format(word=f"word{i}") for i in range(N))
    (tmp_path / name).write_text(f"-DOCSTART- -X- -X- O\n\n{text}\n" if block == CONLL_2003 else text)
    in_conll = read(tmp_path / name, "token-classification")
    assert rows_of(in_conll) == rows_of(
        read(write_lines(tmp_path / "rows.jsonl", rows), "token-classification")
    )


def test_forms_and_parts_of_speech_are_read_of_conll_u(tmp_path):
    """The range 1-2 and the empty node 2.1 stand for no token of their own."""
    cells = "\t_\t_\t_\t_\t_"
    lines = ["# text = im Haus", "1-2\tim\t_\t_\t_" + cells, "1\tin\tin\tADP\t_" + cells]
    text = [[*lines, f"2\tHaus{i}\tHaus\tNOUN\t_" + cells, "2.1\tx\t_\t_\t_" + cells] for i in range(N)]
    (tmp_path / "rows.conllu").write_text("\n\n".join(map("\n".join, text)))
    data = read(tmp_path / "rows.conllu", "token-classification")
    assert {words[0] for ((words),) in data.train.inputs} == {"in"}
    assert {data.label_names[tag] for tags in data.train.labels for tag in tags} == {"ADP", "NOUN"}
    assert {len(tags) for tags in data.train.labels} == {2}


def test_a_token_without_a_tag_is_refused_with_its_line(tmp_path):
    (tmp_path / "rows.conll").write_text("\n\n".join(f"word{i} O\nlonely" for i in range(N)))
    with pytest.raises(DataError, match=r"the line 'lonely' has no tag behind its token\. Repair"):
        read(tmp_path / "rows.conll", "token-classification")


def test_translations_are_prompts_and_completions_in_the_named_direction(tmp_path):
    rows = [{"id": i, "translation": {"de": f"hallo {i}", "en": f"hello {i}"}} for i in range(N)]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    data = read(path, "text2text-generation")
    assert all(text.replace("hallo", "hello") == label for (text,), label in zip(*of(data), strict=True))
    turned = read(
        path, "text2text-generation", text_columns=("translation.en",), label_column="translation.de"
    )
    assert all(text.replace("hello", "hallo") == label for (text,), label in zip(*of(turned), strict=True))


def of(data):
    return data.train.inputs, data.train.labels


def test_calls_of_tools_stay_in_a_chat_and_a_chat_that_ends_in_one_is_left_out(tmp_path):
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}

    def chat(i):
        asked = [{"role": "user", "content": f"what is {i}?"}]
        called = {"role": "assistant", "content": None, "tool_calls": [call]}
        told = [{"role": "tool", "name": "add", "content": "2"}, {"role": "assistant", "content": "two"}]
        return {"messages": [*asked, called, *(told if i % 3 else [])]}

    data = read(write_lines(tmp_path / "rows.jsonl", [chat(i) for i in range(N)]), "text-generation")
    assert "Dropped 30 train chats without an answer at the end." in data.notes
    question, calling, answer = json.loads(data.train.inputs[0][0])
    assert question["content"].startswith("what is ")
    assert calling == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert answer == {"role": "tool", "content": "2", "name": "add"}
    assert set(data.train.labels) == {"two"}


@pytest.mark.parametrize("form", ["torch", "numpy", "pandas"])
def test_a_saved_dataset_is_read_alike_whatever_its_format(tmp_path, form):
    rows = {"text": [f"sentence {i}" for i in range(60)], "label": [i % 3 for i in range(60)]}
    table = datasets.Dataset.from_dict(rows)
    table.save_to_disk(tmp_path / "plain")
    table.with_format(form).save_to_disk(tmp_path / "formatted")
    plain = load(DataSpec(source=str(tmp_path / "plain")), seed=0)
    formatted = load(DataSpec(source=str(tmp_path / "formatted")), seed=0)
    assert formatted.fingerprint == plain.fingerprint and formatted.label_names == ("0", "1", "2")


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv"])
def test_a_table_that_a_spreadsheet_saved_in_its_own_encoding_is_read(tmp_path, caplog, suffix):
    """As Excel writes them: the euro sign and the accents have one byte each."""
    sign, content = "\t" if suffix == ".tsv" else ";", "text|label\r\n"
    for i in range(N):
        label = "f\u00eal\u00e9" if i % 2 else "bon"
        content += f"caf\u00e9 {i} \u20ac|{label}\r\n"
    path, content = tmp_path / f"rows{suffix}", content.replace("|", sign).encode("cp1252")
    path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    loaded = read(path)
    assert loaded.label_space.names == ("bon", "f\u00eal\u00e9")
    assert {text for part in PLUGINS for (text,) in getattr(loaded, part).inputs} == {
        f"caf\u00e9 {i} \u20ac" for i in range(N)
    }
    assert "is read as Windows-1252" in caplog.text


def test_a_missing_label_column_is_guessed(tmp_path):
    """Of few labels, each twice or more, and no text; ids and constants are none."""
    rows = {"id": range(N), "note": ["a short text"] * N, "shop": 1, "team": [f"t{i % 3}" for i in range(N)]}
    with pytest.raises(DataError, match=r"--label-column, perhaps --label-column team --text-column note\.$"):
        read(write(tmp_path / "rows.csv", rows))
    del rows["team"]
    with pytest.raises(DataError, match=r"; name it with --label-column\.$"):
        read(write(tmp_path / "rows.csv", rows))


def test_an_address_is_no_dataset():
    with pytest.raises(DataError, match=r"https://a\.b/c\.csv is an address; download it first"):
        read("https://a.b/c.csv")


def test_texts_in_folders_of_their_classes_are_those_of_scikit_learn(tmp_path):
    for split, n in (("train", N), ("test", 20)):
        for label in ("neg", "pos"):
            folder = tmp_path / "aclImdb" / split / label
            folder.mkdir(parents=True)
            for i in range(n):
                (folder / f"{i}_7.txt").write_text(f"A {label} film, {split} {i}.\nSeen twice.")
    (tmp_path / "aclImdb" / "README").write_text("Reviews")
    (tmp_path / "aclImdb" / "train" / "urls_pos.txt").write_text("an address a line")
    data = read(tmp_path)
    for name, parts in (("train", [data.train, data.search, data.confirm]), ("test", [data.test])):
        bunch = load_files(str(tmp_path / "aclImdb" / name), encoding="utf-8")
        assert data.label_names == tuple(bunch.target_names)
        rows = {
            (text, label) for part in parts for (text,), label in zip(part.inputs, part.labels, strict=True)
        }
        assert rows == set(zip(bunch.data, bunch.label_space, strict=True))


def test_a_text_of_a_class_that_is_no_utf8_is_named(tmp_path):
    for label in ("neg", "pos"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(DataError, match=r"neg/1\.txt is no UTF-8 text: .*\. Save it as UTF-8\.$"):
        read(tmp_path)
