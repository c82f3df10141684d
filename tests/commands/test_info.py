"""`info`: versions, devices and what is installed."""

from __future__ import annotations

import json

import torch
from typer.testing import CliRunner

from autopeft.cli.app import app
from autopeft.types import VERSION


def test_versions_and_devices_are_printed_as_text_and_as_json():
    answer = json.loads(CliRunner().invoke(app, ["info", "--json"]).stdout)
    assert answer["versions"]["autopeft"] == VERSION
    assert answer["versions"]["torch"] == torch.__version__
    assert answer["devices"]["device"] and answer["broken_plugins"] == []
    assert torch.__version__ in CliRunner().invoke(app, ["info"]).stdout
