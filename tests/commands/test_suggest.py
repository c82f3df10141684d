"""`suggest` holds the base in 4 bits if it fits no otherwise, and takes the rate of the searches' list."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import autopeft
from autopeft import space
from autopeft.cli.app import app
from autopeft.cli.sizes import suggestion_json, suggestion_text
from autopeft.commands.suggest import SuggestRequest, suggest
from autopeft.extension import discover


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The config of a Llama of 134 million weights: 268 MB in 16 bits, 75 in four."""
    folder = tmp_path_factory.mktemp("llama")
    shape = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "vocab_size": 1000}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 4, "tie_word_embeddings": True}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **shape, **heads}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(("quantize", "held"), [(None, "4bit"), ("none", "none")])
def test_a_base_that_does_not_fit_is_held_in_4_bits_unless_the_user_says_how(model, quantize, held):
    request = SuggestRequest(model_id=model, budget="r8", device="l4", memory="900MB", quantize=quantize)
    suggestion = suggest(request)
    answer = suggestion_json(suggestion)
    assert (answer["quantize"], answer["fits"]) == (held, held == "4bit")
    assert ("BitsAndBytesConfig(load_in_4bit=True" in suggestion.snippet("trl")) == (held == "4bit")
    assert ("adapter: qlora" in suggestion.snippet("axolotl")) == (held == "4bit")


def test_its_rate_is_that_of_the_first_plan_of_a_search(model):
    methods = discover("autopeft.methods")
    first = space.load("default", known_methods=methods).first["language"][0]
    low, high = methods["lora"].at_width(1024).learning_rate_range
    suggestion = suggest(SuggestRequest(model_id=model, budget="r16", device="l4"))
    rate = low * (high / low) ** first.rate * (4 / 16**0.5) / (suggestion.config.lora_alpha / 16)
    assert suggestion.learning_rate == pytest.approx(rate, rel=1e-6)
    assert suggestion_json(suggestion)["n_steps"] is None
    assert f"{suggestion.warmup_steps} steps of warm-up, then linear to 0" in suggestion_text(suggestion)


def test_first_plans_of_language_models_merge_exactly_or_are_served():
    methods = discover("autopeft.methods")
    for plan in space.load("default", known_methods=methods).first["language"]:
        assert methods[plan.method].merges or methods[plan.method].servers({})


@pytest.fixture
def tickets(tmp_path):
    """Rows whose columns have no usual names."""
    rows = [{"message": f"good film {i}", "team": "ab"[i % 2]} for i in range(200)]
    path = tmp_path / "tickets.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


COLUMNS = ("--text-column", "message", "--label-column", "team")


def test_steps_and_warm_up_follow_from_the_rows_whatever_the_device(model_dir, tickets):
    request = ["suggest", str(model_dir), "--task", "text-classification", "--data", tickets, *COLUMNS]
    told = [
        CliRunner().invoke(app, [*request, "--device", d, "--json", "--for", "trl"]) for d in ("cuda", "l4")
    ]
    without, with_card = (json.loads(result.stdout) for result in told)
    assert without["seconds"] is None and with_card["seconds"] > 0
    assert without["n_steps"] == with_card["n_steps"]
    assert without["warmup_steps"] == with_card["warmup_steps"]
    assert f"max_steps={without['n_steps']}," in without["snippet"]
    text = CliRunner().invoke(app, request).stdout
    assert f"{without['n_steps']} steps; pass --device" in text
    by_python = autopeft.suggest(
        model_dir, tickets, task="text-classification", text="message", label_column="team"
    )
    assert by_python.estimate.n_steps == without["n_steps"]


@pytest.mark.parametrize("command", [("suggest",), ("estimate", "lora_r2", "--model")])
def test_columns_are_named_by_flags(command, model_dir, tickets):
    request = [*command, str(model_dir), "--task", "text-classification"]
    found = CliRunner().invoke(app, [*request, "--data", tickets, *COLUMNS])
    assert found.exit_code == 0, found.output
    lacking = CliRunner().invoke(app, [*request, *COLUMNS])
    assert lacking.exit_code == 2
    assert "need --data; pass it too" in lacking.stderr


def test_servers_are_named_for_causal_language_models_alone(model, model_dir):
    texts = [
        suggestion_text(suggest(SuggestRequest(model_id=str(each), budget="r2")))
        for each in (model, model_dir)
    ]
    assert ["served by" in text for text in texts] == [True, False]
