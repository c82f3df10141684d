"""Models that are spread over two pretended GPUs: whole commands, and the numbers of one GPU."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import transformers
from toys.bases import toy_config
from toys.folders import word_tokenizer, write_data
from toys.words import VOCABULARY

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(shutil.which("g++") is None or sys.platform != "linux", reason="g++ on Linux"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has a device of that name"),
]
CAUSAL, HERE = transformers.AutoModelForCausalLM, Path(__file__).parent
SEARCH = "search --trials 5 --max-steps 6 --budget 8%"
WRITING = f"{SEARCH} --data rows.csv --task text-generation"


@pytest.fixture(scope="module")
def on_gpus(tmp_path_factory):
    """Runs a command where models and rows lie; gives the operations of each GPU."""
    folder, torch_folder = tmp_path_factory.mktemp("gpus"), Path(torch.__file__).parent
    source, library = HERE / "pretended_gpus.cpp", folder / "pretended_gpus.so"
    flags = f"-std=c++20 -shared -fPIC -I{torch_folder}/include -L{torch_folder}/lib -lc10 -ltorch_cpu"
    subprocess.run(["g++", source, "-o", library, *flags.split()], check=True)
    for name, auto_class in {"llama": CAUSAL, "gpt2": CAUSAL, "bert": transformers.AutoModel}.items():
        config = toy_config(name, hidden=32, dropout=0.2 if name == "gpt2" else 0.0)
        config.num_hidden_layers = 4  # of two layers the first GPU would take both
        torch.manual_seed(0)
        auto_class.from_config(config).save_pretrained(folder / name)
        tokenizer = word_tokenizer()
        tokenizer.bos_token, tokenizer.eos_token = "[CLS]", "[SEP]"
        tokenizer.save_pretrained(folder / name)
    draw, words = random.Random(0), [word for word in VOCABULARY if word.isalpha()]
    texts = [draw.sample(words, draw.randint(2, 6)) for _ in range(240)]
    rows = {"prompt": [" ".join(text) for text in texts], "completion": [text[0] for text in texts]}
    pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    write_data(folder / "reviews")
    paths = os.pathsep.join([str(HERE.parents[1]), str(HERE.parent)])
    settings = {"LD_PRELOAD": str(library), "LD_LIBRARY_PATH": f"{torch_folder}/lib", "PYTHONPATH": paths}

    def run(words):
        done = subprocess.run(
            [sys.executable, HERE / "pretended_gpus.py", *shlex.split(words)],
            cwd=folder,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [int(n) for n in done.stderr.rpartition("operations ")[2].split()]

    run.folder = folder
    return run


def losses(folder):
    table = pd.read_csv(folder / "trials.csv")
    assert set(table["status"]) == {"COMPLETE"}
    return {f"{row.plan_id} {row.split}": row.loss for row in table.itertuples()}


@pytest.mark.parametrize(
    ("name", "search"),
    [
        ("llama", f"{WRITING} --model llama --metric exact-match"),
        ("bert", f"{SEARCH} --data reviews --model bert"),
    ],
)
def test_a_search_on_two_gpus_has_the_numbers_of_one_and_its_merged_model_is_verified(name, search, on_gpus):
    assert min(on_gpus(f"{search} --device balanced --out two-{name}")) > 1000
    assert on_gpus(f"{search} --device cuda:0 --out one-{name}")[1] == 0
    two, one = (losses(on_gpus.folder / f"{number}-{name}") for number in ("two", "one"))
    assert two == pytest.approx(one, rel=1e-5)  # the norm of the gradients is added up in another order
    result = json.loads((on_gpus.folder / f"two-{name}" / "result.json").read_text())
    assert result["environment"]["device"] == "pretended, pretended"
    on_gpus(f"export two-{name} --to merged --out merged-{name}")
    on_gpus(f"check merged-{name} --run two-{name}")


def test_dropout_repeats_on_each_gpu_with_checkpointing_and_in_a_continued_full_run(on_gpus):
    """A layer is computed again with its masks, and `train` from the start ends where the search ended."""
    for kind in ("on", "off"):
        on_gpus(f"{WRITING} --model gpt2 --device balanced --checkpointing {kind} --out checkpointing-{kind}")
    found = losses(on_gpus.folder / "checkpointing-on")
    assert found == losses(on_gpus.folder / "checkpointing-off")
    on_gpus("train --plan checkpointing-on --device balanced --checkpointing on --out again")
    trained = json.loads((on_gpus.folder / "again" / "trained.json").read_text())
    ends = [loss for run, loss in found.items() if run.endswith("confirm")]
    assert min(abs(loss - trained["measurement"]["loss"]) for loss in ends) < 1e-9
