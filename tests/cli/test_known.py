"""The lists of methods and formats come from a table that says what the parts say, and load none of them."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from autopeft.cli.facts import TABLE, plugin_facts
from autopeft.plugins import discover
from autopeft.space import load, names
from tools.docs.plugin_facts import table


def test_the_table_says_what_the_parts_say():
    assert TABLE.read_text(encoding="utf-8") == table(), "run: python tools/docs/plugin_facts.py"
    methods = discover("autopeft.methods")
    assert list(plugin_facts("method")) == list(methods)
    for name, method in methods.items():
        assert plugin_facts("method")[name]["summary"] == method.summary
        assert tuple(plugin_facts("method")[name]["learning_rate_range"]) == method.learning_rate_range
    summaries = {part.name: part.summary for part in discover("autopeft.exports").values()}
    assert {name: facts["summary"] for name, facts in plugin_facts("export").items()} == summaries


def test_parts_of_another_package_are_listed_too(monkeypatch):
    monkeypatch.setattr("autopeft.cli.facts.metadata.entry_points", lambda group: ["one"])
    assert set(plugin_facts("method")) == set(discover("autopeft.methods"))


@pytest.mark.parametrize(
    ("words", "name"),
    [("methods", "lora"), ("formats", "trl"), ("spaces", "lora_only"), ("spaces lora_only", "lora_only")],
)
def test_lists_load_neither_torch_nor_peft(words, name):
    code = (
        f"import sys\nfrom autopeft.cli.app import app\n"
        f"try: app({words.split()} + ['--json'])\n"
        "except SystemExit: print({'torch', 'transformers', 'peft'} & {*sys.modules}, "
        "file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "set()" and name in json.loads(done.stdout)


def test_a_space_is_checked_by_the_table_as_by_the_methods_themselves():
    facts = plugin_facts("method").changed(lambda each: SimpleNamespace(**each))
    for name in names():
        assert load(name, known_methods=facts) == load(name, known_methods=discover("autopeft.methods"))
