"""`autopeft check --server` against a stub of an OpenAI-compatible server."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from toys.adapters import ATTENTION, write_adapter
from toys.commands import refused, run
from toys.folders import word_tokenizer
from toys.topologies import build

from autopeft.commands import check


@contextlib.contextmanager
def serving(models, *, tokenizer, has_logprobs=True):
    """The address of a server of models by name; the first is the base, which the others name as parent."""
    base = next(iter(models))

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.answer({"data": [{"id": name, "parent": None if name == base else base} for name in models]})

        @torch.no_grad()
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            logits = models[asked["model"]](**tokenizer(asked["prompt"], return_tensors="pt")).logits[0, -1]
            values, ids = logits.log_softmax(-1).topk(asked["logprobs"])
            top = dict(zip(map(str, ids.tolist()), values.tolist(), strict=True))
            logprobs = {"top_logprobs": [top]} if has_logprobs else None
            self.answer({"choices": [{"text": "", "logprobs": logprobs}]})

        def answer(self, content):
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def served(tmp_path):
    """An adapter, its base model and both together, and the tokenizer."""
    adapter = write_adapter(tmp_path, "llama", ATTENTION)
    tokenizer = word_tokenizer()
    base = build("llama", device="cpu").eval()
    adapted = peft.PeftModel.from_pretrained(build("llama", device="cpu"), adapter).eval()
    tokenizer.save_pretrained(tmp_path / "base")
    for model in (base, adapted):
        model.get_output_embeddings().weight.data *= 50  # so that tokens differ in likelihood
    return adapter, base, adapted, tokenizer


def test_applied_adapter_moves_the_answers_as_it_does_here(served, tmp_path):
    adapter, base, adapted, tokenizer = served
    base.save_pretrained(tmp_path / "base")
    with serving({"llama": base, "mine": adapted}, tokenizer=tokenizer) as url:
        found = check(str(adapter), server=url)
    assert found.verdict == "good" and (found.answers.base, found.answers.adapter) == ("llama", "mine")
    assert found.answers.change > 1e-3 and found.answers.difference < 1e-4


def test_ignored_adapter_is_broken_though_its_files_are_good(served):
    """The server of vllm#55193 has both names and answers alike."""
    adapter, base, _, tokenizer = served
    with serving({"llama": base, "mine": base}, tokenizer=tokenizer) as url:
        result = run("check", adapter, "--server", url, "--json")
    content = json.loads(result.stdout)
    assert result.exit_code == 1 and content["verdict"] == "broken" and not content["findings"]
    assert content["answers"]["change"] == 0 and content["answers"]["difference"] is None


def test_wrongly_scaled_adapter_differs_from_the_one_here(served, tmp_path):
    adapter, base, adapted, tokenizer = served
    base.save_pretrained(tmp_path / "base")
    for layer in adapted.modules():
        if isinstance(layer, LoraLayer):
            layer.scaling["default"] *= 64
    with serving({"llama": base, "mine": adapted}, tokenizer=tokenizer) as url:
        found = check(str(adapter), server=url)
    assert found.verdict == "broken" and found.answers.difference > 0.1


def test_adapter_of_the_folder_is_chosen_among_several(served):
    adapter, base, adapted, tokenizer = served
    with serving({"llama": base, "other": base, adapter.name: adapted}, tokenizer=tokenizer) as url:
        assert check(str(adapter), server=url).answers.adapter == adapter.name
    with serving({"llama": base, "a": base, "b": adapted}, tokenizer=tokenizer) as url:
        refused(run("check", adapter, "--server", url), 2, adapter.name)


def test_server_without_an_answer_fails_in_a_sentence(served):
    adapter, base, adapted, tokenizer = served
    with serving({"llama": base, "mine": adapted}, tokenizer=tokenizer, has_logprobs=False) as url:
        refused(run("check", adapter, "--server", url), 1, "log-probabilities")
    for silent in (url, "vllm"):  # a server that has stopped, and a name
        refused(run("check", adapter, "--server", silent), 1, silent)
