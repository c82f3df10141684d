"""Forgetting: losses on general text against plain transformers and peft, what is refused, what is shown."""

from __future__ import annotations

import json
import math
import re
import shutil
from statistics import fmean, stdev

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from toys.bases import adapters_of, toy_config
from toys.engine import World, levels, problem
from toys.engine import run as toy_search
from toys.specs import run_spec
from toys.words import CONTEXT, FILLER, toy_rows
from typer.testing import CliRunner

from autopeft import pipeline, report
from autopeft.adapters import compile_plan
from autopeft.cli.app import app
from autopeft.cli.progress import Silent
from autopeft.engine import Ledger
from autopeft.errors import DataError, ModelError, RunDirError, SpecError
from autopeft.executors import Serial
from autopeft.model import save_weights
from autopeft.pipeline.forgetting import (
    BASE,
    MAX_BLOCKS,
    check_forgetting,
    measure_forgetting,
    with_general_text,
)
from autopeft.pipeline.prepare import prepare
from autopeft.records import (
    Fidelity,
    Plan,
    SearchResult,
    Status,
    from_json,
    to_json,
)

NEVER = 10**9


@pytest.fixture(scope="module")
def toys(tmp_path_factory, tokenizer):
    """A folder with a tiny causal language model, rows to adapt it to, and general texts."""
    folder = tmp_path_factory.mktemp("toys")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = toy_config("llama", hidden=32)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    texts, _ = toy_rows(160, seed=5)
    rows = [{"prompt": text, "completion": " ".join(reversed(text.split()))} for text in texts]
    write(folder / "train.jsonl", rows[:120])
    write(folder / "validation.jsonl", rows[120:])
    general, _ = toy_rows(90, seed=11, n_filler=(5, 30))
    write(folder / "general.jsonl", [{"text": text} for text in [*general, texts[0], f" {texts[1].upper()}"]])
    return folder


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def spec_for(toys, out=None, *, source="general.jsonl", **settings):
    usual = {
        "task": "text-generation",
        "max_steps": 8,
        "batch_size": 8,
        "max_length": CONTEXT,
        "budget": "5%",
        "trials": 4,
        "methods": ("lora",),
        "confirm": "half",
        "confirm_seeds": 2,
        "forgetting": toys / source if source else None,
        "out": out,
    }
    data = f"{toys / 'train.jsonl'},{toys / 'validation.jsonl'}"
    return run_spec(**{"model": toys / "model", "data": data} | usual | settings)


@pytest.fixture(scope="module")
def run(toys):
    """A finished search with its folder; to be read, not changed."""
    return pipeline.search(spec_for(toys, toys / "run"), progress=Silent())


@pytest.fixture
def prepared(toys, tmp_path):
    """A bench with the general text, which keeps weights in a folder of the test."""
    keep = tmp_path / "weights"
    return with_general_text(prepare(spec_for(toys), keep_weights=lambda plan, seed: keep))


def plain_loss(model, blocks):
    """Nats per predicted token, by transformers' named loss, one block at a time."""
    total = n_tokens = 0.0
    with torch.no_grad():
        for ids in blocks:
            batch = torch.from_numpy(np.array([ids], dtype=np.int64))
            total += float(model.eval()(input_ids=batch, labels=batch).loss) * (len(ids) - 1)
            n_tokens += len(ids) - 1
    return total / n_tokens


def plain_model(toys, weights=None):
    base = transformers.AutoModelForCausalLM.from_pretrained(toys / "model")
    return base if weights is None else PeftModel.from_pretrained(base, weights)


def blocks_of(prepared):
    return [example["input_ids"] for example in prepared.bench.splits["general"].examples]


def on_general(prepared, *, steps):
    n_blocks = prepared.general.n_blocks
    return Fidelity(split="general", train_steps=steps, train_examples=0, eval_examples=n_blocks, seed=0)


def test_blocks_hold_the_documents_but_those_that_the_data_has(toys, prepared, tokenizer):
    texts = [json.loads(line)["text"] for line in (toys / "general.jsonl").read_text().splitlines()]
    blocks = blocks_of(prepared)
    assert prepared.general.duplicates_removed == 2
    assert [len(block) for block in blocks[:-1]] == [CONTEXT] * (len(blocks) - 1)
    flat = " ".join(tokenizer.convert_ids_to_tokens([i for block in blocks for i in block]))
    seen = [text.strip() for text in re.split(r"\[CLS\]|\[SEP\]", flat) if text.strip()]
    assert sorted(seen) == sorted(texts[:90])


def test_base_loss_is_that_of_plain_transformers_averaged_by_tokens(toys, prepared):
    base = prepared.bench.measure(BASE, on_general(prepared, steps=0))
    blocks = blocks_of(prepared)
    assert prepared.general.n_tokens == sum(len(block) - 1 for block in blocks)
    assert base.loss == pytest.approx(plain_loss(plain_model(toys), blocks), abs=1e-5)


def test_adapter_that_changes_nothing_forgets_nothing(prepared, methods, tmp_path):
    """LoRA's B is 0 at the start, and is kept so."""
    bench, sites = prepared.bench, {site.name: site for site in prepared.base.sites}
    adapters = adapters_of(methods["lora"], prepared.base.sites, rank=2)
    cost = sum(methods["lora"].cost(sites[adapter.site], 2, dict(adapter.options)) for adapter in adapters)
    plan = Plan(adapters=tuple(adapters), learning_rate=1e-2, trainable_params=cost)
    configs = compile_plan(plan, methods).configs
    with prepared.base.attached(configs, plan=plan, task_type="CAUSAL_LM", seed=0) as model:
        save_weights(model, ("default",), tmp_path / "weights")
    untouched = bench.measure(plan, on_general(prepared, steps=8))
    base = bench.measure(BASE, on_general(prepared, steps=0))
    assert untouched.status is Status.COMPLETE and untouched.loss == base.loss


def test_losses_are_those_of_the_confirmed_weights_in_plain_peft(toys, run, prepared):
    result, path = run
    forgetting = result.forgetting
    assert [named.name for named in forgetting.plans] == ["best", "smallest", "baseline"]
    assert [named.plan for named in forgetting.plans] == [result.best, result.smallest, result.baseline]
    assert forgetting.base_loss == pytest.approx(plain_loss(plain_model(toys), blocks_of(prepared)), abs=1e-5)
    for named in forgetting.plans:
        assert named.seeds == next(c.seeds for c in result.confirmations if c.plan == named.plan)
        for seed, loss in zip(named.seeds, named.losses, strict=True):
            folder = path / "state" / "weights" / f"{named.plan.digest}-{seed}"
            expected = plain_loss(plain_model(toys, folder), blocks_of(prepared))
            assert loss == pytest.approx(expected, abs=1e-5)
            assert (loss != forgetting.base_loss) == bool(named.plan.adapters)


def test_without_a_head_its_arm_is_the_untrained_base_model(toys, run, prepared):
    result, _ = run
    untrained = next(c for c in result.confirmations if not c.plan.adapters)
    assert "untrained" in {str(proposal.arm) for proposal in result.proposals}
    split, model = prepared.bench.splits["confirm"], plain_model(toys).eval()
    total = n_tokens = 0
    for example, labels in zip(split.examples, split.labels, strict=True):
        ids, targets = (
            torch.from_numpy(np.array([row], dtype=np.int64)) for row in (example["input_ids"], labels)
        )
        n_targets = int((targets[:, 1:] != -100).sum())
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=targets).loss) * n_targets
        n_tokens += n_targets
    assert untrained.metric_mean == pytest.approx(total / n_tokens, abs=1e-5)
    assert untrained.train_seconds == 0
    assert not [m.error for m in result.measurements if m.error]


def test_result_json_and_reports_show_forgetting(run):
    result, path = run
    forgetting, answer = result.forgetting, json.loads((path / "result.json").read_text(encoding="utf-8"))
    best, in_json = forgetting.plans[0], answer["forgetting"]
    assert in_json["base"]["perplexity"] == pytest.approx(math.exp(forgetting.base_loss))
    assert in_json["best"]["difference"] == pytest.approx(fmean(best.losses) - forgetting.base_loss)
    spread = stdev(best.losses) if len(best.losses) > 1 else None
    assert in_json["best"]["loss_std"] == (pytest.approx(spread) if spread else None)
    assert (in_json["best"]["losses"], in_json["best"]["seeds"]) == (list(best.losses), list(best.seeds))
    assert in_json["text"]["n_tokens"] == forgetting.text.n_tokens and answer["schema_version"] == 2
    shown = f"{fmean(best.losses) - forgetting.base_loss:+.4f}".replace("-", "−")
    for name in ("report.md", "report.html"):
        text = (path / name).read_text(encoding="utf-8")
        assert shown in text and f"{forgetting.base_loss:.4f}" in text and "above 0 the plan forgot" in text
        assert f"{forgetting.text.n_tokens:,} tokens" in text and forgetting.text.name in text
        assert "Texts that are also rows of the data were left out: 2." in text


def test_terminal_shows_one_line_of_forgetting(run):
    result, path = run
    printed = CliRunner().invoke(app, ["report", str(path)]).stdout
    (line,) = [line for line in printed.splitlines() if line.startswith("forgetting")]
    assert f"loss {result.forgetting.base_loss:.4f} of the base model" in line and "above 0 it forgot" in line


def test_runs_without_forgetting_load_and_show_none(run):
    result, _ = run
    old = to_json(result)
    del old["forgetting"], old["spec"]["forgetting"]
    loaded = from_json(SearchResult, old)
    assert loaded.forgetting is None
    assert report.result_json(loaded, "complete")["forgetting"] is None
    words = report.PartWords()
    assert "orget" not in report.report_md(loaded, words=words) + report.report_html(loaded, words=words)


class Stops(Silent):
    """Breaks off after some measurements of this phase."""

    def __init__(self, after=NEVER):
        self.after, self.name, self.seen = after, "", 0

    def phase(self, name, n_measurements):
        self.name = name

    def measured(self, measurement, **_):
        self.seen += self.name == "forgetting"
        if self.seen == self.after:
            raise KeyboardInterrupt


def lines_of(out):
    return (out / "state" / "measurements.jsonl").read_text(encoding="utf-8").splitlines()


def test_stopped_run_measures_what_is_missing_and_a_finished_one_nothing(toys, run, tmp_path):
    result, path = run
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        pipeline.search(spec_for(toys, out), progress=Stops(after=2))
    before = lines_of(out)
    request = run_spec(out=out)
    again, _ = pipeline.search(request, resume=True, progress=Silent())
    assert again.forgetting.plans == result.forgetting.plans
    assert lines_of(out)[: len(before)] == before and len(lines_of(out)) == len(lines_of(path))
    whole = lines_of(out)
    finished, _ = pipeline.search(request, resume=True, progress=Silent())
    assert lines_of(out) == whole and finished.forgetting == again.forgetting


def test_run_does_not_go_on_with_another_text(toys, run, tmp_path):
    shutil.copytree(run[1], tmp_path / "run")
    other = [{"text": f"{text} {text}"} for text in toy_rows(90, seed=12, n_filler=(5, 30))[0]]
    kept = (toys / "general.jsonl").read_text(encoding="utf-8")
    write(toys / "general.jsonl", other)
    try:
        with pytest.raises(RunDirError, match="was measured with general_text"):
            pipeline.search(run_spec(out=tmp_path / "run"), resume=True, progress=Silent())
    finally:
        (toys / "general.jsonl").write_text(kept, encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["text2text-generation", "text-classification", "token-classification", "multiple-choice"]
)
def test_tasks_without_next_token_loss_are_refused_before_anything_is_loaded(name, toys, tmp_path):
    spec = spec_for(toys, tmp_path / "run", task=name, model="absent/model")
    with pytest.raises(
        SpecError, match=f"a model for {name} predicts no next token; use --task text-generation"
    ):
        pipeline.search(spec, progress=Silent())
    assert not (tmp_path / "run").exists()


def test_search_without_confirmation_is_refused(toys, tmp_path):
    arguments = ["--forgetting", toys / "general.jsonl", "--task", "text-generation", "--confirm", "none"]
    request = ["search", "--model", toys / "model", "--data", toys / "train.jsonl", "--out", tmp_path / "run"]
    done = CliRunner().invoke(app, [str(word) for word in [*request, *arguments]])
    assert done.exit_code == 2
    assert "--confirm none confirms nothing; use --confirm full or half" in done.stderr
    assert not (tmp_path / "run").exists()


def test_confirmation_is_not_required_without_forgetting():
    check_forgetting(run_spec(confirm="none"))


def test_model_whose_head_the_checkpoint_lacks_is_refused(prepared):
    prepared.base.head_names = ("lm_head",)
    with pytest.raises(ModelError, match="lacks lm_head and cannot predict text"):
        with_general_text(prepared)


def test_text_that_is_all_of_the_data_is_refused(toys):
    columns = {"forgetting.text_column": "prompt"}
    with pytest.raises(DataError, match=r"train\.jsonl, as the data hold its 120 texts too"):
        with_general_text(prepare(spec_for(toys, source="train.jsonl", data=toys / "train.jsonl", **columns)))


def test_short_text_is_refused(toys, tmp_path):
    (tmp_path / "short.txt").write_text("a film", encoding="utf-8")
    spec = spec_for(toys, source=tmp_path / "short.txt")
    with pytest.raises(DataError, match=r"short\.txt is too short: .* at least 2 blocks"):
        with_general_text(prepare(spec))


def test_long_text_is_bounded(toys, tmp_path):
    words = " ".join(FILLER[i % len(FILLER)] for i in range(40_000))
    (tmp_path / "long.txt").write_text(words, encoding="utf-8")
    spec = spec_for(toys, source=tmp_path / "long.txt")
    text = with_general_text(prepare(spec)).general
    assert (text.n_blocks, text.block_tokens) == (MAX_BLOCKS, CONTEXT)
    assert text.n_tokens == MAX_BLOCKS * (CONTEXT - 1)


def test_preview_names_the_text(toys):
    preview = pipeline.preview(spec_for(toys))
    assert preview.forgetting.name == f"{toys.name}/general.jsonl"
    assert pipeline.preview(spec_for(toys, source=None)).forgetting is None


def test_plan_trained_in_full_reports_forgetting_too(toys, run, prepared, tmp_path):
    trained = pipeline.train_plan(
        run[1],
        out=tmp_path / "adapter",
        seed=4,
        overrides={"forgetting.source": str(toys / "general.jsonl")},
    )
    (named,) = trained.forgetting.plans
    expected = plain_loss(plain_model(toys, tmp_path / "adapter"), blocks_of(prepared))
    assert named.losses == (pytest.approx(expected, abs=1e-5),)
    in_json = json.loads((tmp_path / "adapter" / "training.json").read_text(encoding="utf-8"))["forgetting"]
    assert in_json["plan"]["difference"] == pytest.approx(named.losses[0] - in_json["base"]["loss"])
    assert in_json["plan"]["loss_std"] is None


def test_forgetting_keeps_to_the_time_limit(toys, caplog):
    """Nothing is measured once the time is up, which a resumed run makes good."""
    prepared = with_general_text(prepare(spec_for(toys)))
    world = World(quality=levels())
    ledger = Ledger(
        executor=Serial(), measure=world.measure, progress=Silent(), clock=lambda: 99.0, limit_seconds=100.0
    )
    outcome = toy_search(levels()).outcome
    assert measure_forgetting(prepared, problem().schedule, ledger, outcome) is None
    assert world.calls == []
    assert "Time is short: forgetting is not measured" in caplog.text
