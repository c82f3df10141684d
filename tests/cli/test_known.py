"""The list of methods is kept between calls, and is never out of date."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from autopeft.cli import known
from autopeft.errors import UnknownNameError
from autopeft.extension import discover
from autopeft.space import load, names


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "autopeft"


def test_what_is_kept_says_what_the_methods_say(cache):
    first, again = known.known_methods(), known.known_methods()
    assert dict(first) == dict(again) and len(list(cache.iterdir())) == 1
    methods = discover("autopeft.methods")
    assert list(again) == list(methods)
    for name, method in methods.items():
        assert again[name]["summary"] == method.summary
        assert tuple(again[name]["learning_rate_range"]) == method.learning_rate_range


def test_an_unknown_method_is_answered_with_the_nearest(cache):
    for _ in range(2):
        with pytest.raises(UnknownNameError, match="Did you mean 'lora'"):
            known.known_methods()["lroa"]


def test_kept_notes_on_formats_say_what_the_formats_say(cache):
    summaries = {part.name: part.summary for part in discover("autopeft.exports").values()}
    for _ in range(2):
        assert {name: facts["summary"] for name, facts in known.known_formats().items()} == summaries
    assert [path.name.split("-")[0] for path in cache.iterdir()] == ["exports"]


@pytest.mark.parametrize(
    ("words", "name"),
    [("methods", "lora"), ("formats", "trl"), ("spaces", "lora_only"), ("spaces lora_only", "lora_only")],
)
def test_lists_from_kept_notes_load_neither_torch_nor_peft(cache, words, name):
    known.known_methods(), known.known_formats()
    code = (
        f"import sys\nfrom autopeft.cli.app import app\n"
        f"try: app({words.split()} + ['--json'])\n"
        "except SystemExit: print({'torch', 'transformers', 'peft', 'matplotlib'} & {*sys.modules}, "
        "file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stderr.strip() == "set()" and name in json.loads(done.stdout)


def test_a_space_is_checked_by_notes_as_by_the_methods_themselves(cache):
    for methods in (known.known_methods(), known.known_methods()):
        facts = methods.changed(lambda each: SimpleNamespace(**each))
        for name in names():
            assert load(name, known_methods=facts) == load(name, known_methods=discover("autopeft.methods"))


def test_another_version_and_damaged_notes_are_read_anew(cache, monkeypatch):
    known.known_methods()
    (kept,) = cache.iterdir()
    kept.write_text("{", encoding="utf-8")
    assert "lora" in known.known_methods()
    assert json.loads(kept.read_text(encoding="utf-8"))
    monkeypatch.setattr(known, "VERSION", "0.0.0")
    known.known_methods()
    assert len(list(cache.iterdir())) == 2


def test_without_a_home_nothing_is_kept(tmp_path, monkeypatch):
    """As in a container whose user has neither HOME nor an entry in the list of users."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    assert "lora" in known.known_methods()
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "lora" in known.known_methods()
