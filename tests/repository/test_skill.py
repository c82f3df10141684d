"""The skill for agents: its commands run on the demo, and what it says of exit codes is what happens."""

from __future__ import annotations

import json
import re
import shlex

import typer.main
import yaml
from typer.testing import CliRunner

from autopeft import errors
from autopeft.cli.app import app
from autopeft.cli.info import SKILL

TEXT = SKILL.read_text(encoding="utf-8")
BLOCKS = "".join(re.findall(r"^```bash\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))


def value_at(content, name):
    """`value_at({"a": {"b": 1}}, "a.b")` is 1."""
    for key in name.split("."):
        content = content[key]
    return content


def test_info_skill_prints_the_file():
    assert CliRunner().invoke(app, ["info", "skill"]).stdout == TEXT
    assert json.loads(CliRunner().invoke(app, ["info", "skill", "--json"]).stdout) == {"skill": TEXT}


def test_its_front_matter_has_a_name_and_a_description_that_agents_take():
    _, front, _ = TEXT.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["name"] == "autopeft" and 0 < len(matter["description"]) <= 1024  # the format's limit


def test_it_names_every_command():
    names = typer.main.get_command(app).commands.keys() - {"info"}
    assert [name for name in names if f"`autopeft {name}" not in TEXT] == []


def test_its_exit_codes_are_those_of_the_errors():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    expected = {(str(kind.exit_code), kind.code) for kind in kinds if issubclass(kind, errors.AutopeftError)}
    expected |= {("0", ""), ("1", "internal"), ("75", "interrupted"), ("130, 143", "interrupted")}
    assert set(re.findall(r"^\| ([\d, ]+) \| (?:`(\w+)` )?\|", TEXT, re.MULTILINE)) == expected


def test_its_commands_run_in_order_and_answer_with_the_names_that_it_gives(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answers = {}
    for line in BLOCKS.splitlines():
        _, *words = shlex.split(line)
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, (line, result.stderr)
        answers[words[0]] = json.loads(result.stdout)
    named = re.search(r"These names are stable: (.*)\.$", TEXT, re.MULTILINE)[1]
    values = {name: value_at(answers["search"], name) for name in re.findall(r"`([\w.]+)`", named)}
    assert values["best.trainable_params"] <= values["budget.max_trainable_params"]
