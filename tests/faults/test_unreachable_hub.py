"""A hub that is gone: a model that is not cached is refused at once, and a cached one does not wait."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from autopeft.errors import ModelError
from autopeft.model.checkpoint_source import pretrained_arguments
from autopeft.types import ModelSpec


def test_a_hub_model_without_a_hub_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    spec = ModelSpec(id="nobody/no-such-model")
    with pytest.raises(ModelError, match="cannot be reached"):
        pretrained_arguments("nobody/no-such-model", spec)


def test_a_cached_hub_model_does_not_wait_for_a_hub_that_is_gone(monkeypatch, tmp_path):
    cached = tmp_path / "models--nobody--cached"
    snapshot = cached / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 24}))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    spec = ModelSpec(id="nobody/cached")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as hub:  # it refuses all requests
        threading.Thread(target=hub.handle_request, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
        assert "local_files_only" not in pretrained_arguments("nobody/cached", spec)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert pretrained_arguments("nobody/cached", spec)["local_files_only"]
