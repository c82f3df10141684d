"""Fixtures that the tests share: a word tokenizer, tiny base models, benches, a model and a dataset on disk.

Everything is built offline and seeded.
"""

from __future__ import annotations

import copy
import gc
import itertools
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import hypothesis
import peft
import pytest
import torch
from filelock import FileLock
from packaging import version
from toys.bases import ARCHITECTURES, PEFT_TASKS, adapters_of, toy_base
from toys.counting import tiny_config
from toys.exports import trained
from toys.folders import word_tokenizer, write_data, write_model
from toys.specs import run_spec
from toys.words import CONTEXT, toy_rows

from autopeft import commands
from autopeft.adapters import compile_plan
from autopeft.errors import SpecError
from autopeft.exports import write_adapter
from autopeft.plugins import discover
from autopeft.report.progress import Lines
from autopeft.train import Bench, EncodedSplit
from autopeft.types import Fidelity, Plan

collect_ignore_glob = ["*conftest.py"]  # no doctests here; several files of this name cannot be collected
# Tiny models gain nothing from a second thread and wait long for one on a busy machine. The variable is for
# the processes that tests start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# Tests of what only the newest releases have: new architectures and methods, or their exact messages.
_NEWEST_ONLY = (Path(__file__).parents[1] / ".github" / "newest_only.txt").read_text(encoding="utf-8").split()
_IS_NEWEST = version.parse(peft.__version__) >= version.parse("0.21.2")


def _skipping_what_peft_lacks():
    """Skip a test that asks for a method that the installed `peft` does not have; the newest has them all."""
    try:
        return (yield)
    except (SpecError, AttributeError) as error:
        if not _IS_NEWEST and re.search(r"needs peft [\d.]+ or newer|module 'peft' has no", str(error)):
            pytest.skip(str(error))
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    """Skip a test whose fixtures need a newer `peft`."""
    return (yield from _skipping_what_peft_lacks())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """Skip a test that needs a newer `peft`."""
    return (yield from _skipping_what_peft_lacks())


# A probe's choice depends on the machine and on what else it does.
os.environ["AUTOPEFT_EXECUTION_DTYPE"] = "float32"

# How long an example takes is nothing that a test asserts: machines are loaded.
hypothesis.settings.register_profile("gate", deadline=None, max_examples=25)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=500)

# The folders with the longest tests. A worker that begins one of them last would end long after the other.
SLOW_FOLDERS = ("repository", "faults", "trials", "commands")


def is_nightly(config):
    """Whether `-m` asks for the nightly tests."""
    return "nightly" in config.option.markexpr.replace("not nightly", "")


def pytest_configure(config):
    """Take many examples of each property at night, few by day."""
    hypothesis.settings.load_profile("nightly" if is_nightly(config) else "gate")


def pytest_collection_modifyitems(config, items):
    """Start the longest tests first, so that the workers share only short ones at the end.

    Next to older releases, tests that need the newest ones are skipped.
    """
    for item in items:
        if not _IS_NEWEST and item.nodeid.partition("[")[0] in _NEWEST_ONLY:
            item.add_marker(pytest.mark.skip(reason="needs the newest releases"))
    items.sort(key=lambda item: item.path.parent.name not in SLOW_FOLDERS)
    for item in items if is_nightly(config) else ():
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("nightly")


def pytest_terminal_summary(terminalreporter):
    """Say how long the tests of each folder took: a gate that tells no times does not stay quick."""
    seconds, cases = Counter(), Counter()
    for report in itertools.chain(*terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            folder = "/".join(report.nodeid.split("::")[0].split("/")[:-1][:2])
            seconds[folder] += report.duration
            cases[folder] += report.when == "setup"
    if not seconds:
        return
    terminalreporter.section("seconds and cases per folder, over all workers")
    for folder, total in seconds.most_common():
        terminalreporter.line(f"{total:8.1f} {cases[folder]:6d}  {folder}")
    terminalreporter.line(f"{seconds.total():8.1f} {cases.total():6d}  in all")


def pytest_collection_finish(session):
    """Set the libraries and the tests themselves apart from garbage collection, which would go over them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tokenizer():
    """One token per word of VOCABULARY, [CLS] before and [SEP] after."""
    return word_tokenizer()


@pytest.fixture(scope="session")
def make_base(tokenizer):
    """A function: architecture -> fresh base model with the toy tokenizer."""

    def make(architecture="bert", **settings):
        return toy_base(architecture, tokenizer=tokenizer, **settings)

    return make


@pytest.fixture
def bert(make_base):
    """A fresh toy BERT."""
    return make_base("bert")


@pytest.fixture(params=ARCHITECTURES)
def base(request, make_base):
    """A fresh toy of each architecture."""
    return make_base(request.param)


@pytest.fixture(scope="session")
def methods():
    """Every discovered PEFT method by name."""
    return discover("autopeft.methods")


@pytest.fixture(scope="session")
def task():
    """Text classification."""
    return discover("autopeft.tasks")["text-classification"]


@pytest.fixture(scope="session")
def make_plan(methods):
    """A function: base model and adapters, or a method's name for every target module it fits -> plan."""

    def make(base, chosen=(), *, rank=2, learning_rate=1e-2, **choices):
        targets = {target.name: target for target in base.targets}
        if isinstance(chosen, str):
            chosen = adapters_of(methods[chosen], base.targets, rank=rank, **choices)
        cost = sum(methods[a.method].cost(targets[a.target], a.rank, dict(a.options)) for a in chosen)
        return Plan(adapters=tuple(chosen), learning_rate=learning_rate, trainable_params=cost)

    return make


@pytest.fixture(scope="session")
def attach(methods, task):
    """A function: base model and plan -> the context manager that lends the model with the plan on it."""

    def attach(base, plan, *, seed=0):
        configs = compile_plan(plan, methods).configs
        task_type = PEFT_TASKS.get(base.name.removeprefix("toy "), task.peft_task_type)
        return base.attached(configs, plan=plan, task_type=task_type, seed=seed)

    return attach


@pytest.fixture(scope="session")
def make_batch(tokenizer, task):
    """A function: number of rows and range of filler words -> one padded batch with labels."""

    def make(n=6, *, seed=0, n_filler=(1, 9)):
        texts, labels = toy_rows(n, seed, n_filler=n_filler)
        examples = task.encode([[text] for text in texts], labels, tokenizer, CONTEXT).examples
        return task.collate(examples, labels, tokenizer.pad_token_id)

    return make


@pytest.fixture(scope="session")
def batch_for(make_batch):
    """A function: base model -> a batch of its kind with labels: texts, images, or tokens to predict."""

    def make(base):
        architecture = base.name.removeprefix("toy ")
        if architecture == "vit":
            pixels = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
            return {"pixel_values": pixels, "labels": torch.tensor([0, 1] * 3)}
        batch = {name: value for name, value in make_batch().items() if name != "token_type_ids"}
        if architecture.endswith("-lm"):
            batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return batch

    return make


@pytest.fixture(scope="session")
def make_bench(make_base, methods, task):
    """A function -> a bench of 48 train rows and 24 in each other split; settings replace its fields."""

    def make(**settings):
        base = settings.pop("base", None) or make_base("bert", dropout=0.1)
        splits = {}
        for seed, (split, n) in enumerate({"train": 48, "search": 24, "confirm": 24, "test": 24}.items()):
            texts, labels = toy_rows(n, seed)
            made = task.encode([[text] for text in texts], labels, base.tokenizer, CONTEXT)
            splits[split] = EncodedSplit(examples=made.examples, labels=made.labels)
        fields = {"task": task, "methods": methods, "splits": splits, "batch_size": 8, **settings}
        return Bench(base=base, **fields)

    return make


@pytest.fixture(scope="session")
def fidelity():
    """A function: what differs from six steps and 24 rows of the search split -> fidelity."""

    def make(**settings):
        usual = {"split": "search", "train_steps": 6, "train_examples": 48, "eval_examples": 24, "seed": 0}
        return Fidelity(**{**usual, **settings})

    return make


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """A function: a name and what fills a new folder -> the folder, filled once for all processes."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder_of(name, fill):
        folder, mark = base / name, base / f"{name}.filled"
        with FileLock(base / f"{name}.lock"):
            if not mark.exists():
                fill(folder)
                mark.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def model_dir(shared_folder):
    """A local model directory: a tiny BERT without a task head, and its tokenizer."""
    return shared_folder("m", lambda folder: write_model(folder / "tiny-bert")) / "tiny-bert"


@pytest.fixture(scope="session")
def data_dir(shared_folder):
    """A local dataset: train.csv, validation.csv and test.csv of 120, 40 and 40 rows; words decide labels."""
    return shared_folder("tiny-reviews", write_data)


@pytest.fixture(scope="session")
def small_spec(model_dir, data_dir):
    """A function: folder and further settings -> the settings of a search of a few seconds."""
    settings = {"max_steps": 8, "batch_size": 8, "budget": "5%", "trials": 5, "seed": 3}

    def make(out, **others):
        return run_spec(**{"model": model_dir, "data": data_dir, "out": out} | settings | others)

    return make


@pytest.fixture(scope="session")
def finished(small_spec, shared_folder):
    """The folder of a finished search of texts with LoRA and IA3; tests that change it take a copy."""

    def fill(folder):
        commands.run_search(small_spec(folder, methods="ia3,lora"), progress=Lines())

    return shared_folder("finished", fill)


@pytest.fixture
def run_copy(finished, tmp_path):
    """A copy of the finished search."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """The folder of a tiny Llama's config, without weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_config().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama_with_weights(tmp_path_factory, make_base, tokenizer):
    """A tiny Llama in memory, and the folder that holds the same."""
    folder = tmp_path_factory.mktemp("llama")
    base = make_base("llama-lm")
    base.module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return base, folder


@pytest.fixture
def trained_adapter(llama_with_weights, make_plan, tmp_path):
    """A function: method -> a trained toy on the disk, made for the Llama on the disk."""

    def make(method="lora", **choices):
        base, model_dir = copy.deepcopy(llama_with_weights[0]), llama_with_weights[1]
        toy = trained(base, make_plan(base, method, **choices), tmp_path / "adapter")
        write_adapter(replace(toy.source, base_model=str(model_dir)), tmp_path / "native")
        return replace(toy, folder=tmp_path / "native")

    return make
