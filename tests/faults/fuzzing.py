"""Feeds damaged and absurd inputs to everything that reads: only errors of our own, and none that hangs.

    PYTHONPATH=.:tests python tests/faults/fuzzing.py --inputs 10000

Inputs are good files with a few leaves, keys or bytes replaced. An input fails where anything but an
AutopeftError or an OSError is raised, or where it takes more than 5 seconds of processor time. A hundred
inputs of a kind are a row of a CSV file; the same command goes on with the rows that are missing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import math
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from killing import SETTINGS, search
from rows import Rows
from toys.counting import tiny_config
from toys.folders import write_data, write_model

from autopeft import budget, pipeline, space
from autopeft.data import load
from autopeft.errors import AutopeftError
from autopeft.extension import discover
from autopeft.records import SETTINGS as SETTING_NAMES
from autopeft.records import DataSpec
from autopeft.store import resolve_settings

_PER_ROW = 100
_MOST_SECONDS = 5.0
_NUMBERS = (
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**70),
    10**400,
    0.0,
    -0.0,
    1e-320,
    1e308,
    math.inf,
    -math.inf,
    math.nan,
)
_WORDS = (
    "",
    " ",
    "\x00",
    "\x1b[31m",
    "nan",
    "1e999",
    "0x10",
    "½",
    "\ud800",
    "🙂" * 40,
    "a" * 5000,
    "9" * 5000,
)
_CODES = ("../../etc/passwd", "/", "(.*)*Y", "[", "{{ 1 }}", "<script>", "true", "0.5%")
_NESTED = ([], {}, [[]], {"": ""}, [None], ["q"] * 300, {"a": {"b": {"c": 1}}})
_ABSURD: tuple[Any, ...] = (None, True, False, *_NUMBERS, *_WORDS, *_CODES, *_NESTED)
_INSERTED = (b"{", b"]", b'"', b": ", b"\n", b"\x00", b"&a *a")
_GOOD_ROWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "text-classification": lambda i: {"text": f"good {i}", "label": i % 2},
    "token-classification": lambda i: {"tokens": ["a", f"b{i}"], "tags": ["O", "B-X"]},
    "text-generation": lambda i: {"prompt": f"good {i}", "completion": "fine"},
    "text2text-generation": lambda i: {"source": f"good {i}", "target": "fine"},
    "multiple-choice": lambda i: {"question": f"good {i}", "choices": ["a", "b"], "label": i % 2},
}
Read = Callable[[random.Random], object]


def altered(content: Any, rng: random.Random) -> Any:
    """The content with one leaf, item or key replaced, removed or added."""
    if isinstance(content, dict) and content and rng.random() < 0.85:
        key, way = rng.choice(list(content)), rng.random()
        rest = {name: value for name, value in content.items() if name != key}
        if way < 0.1:
            return rest
        if way < 0.2:
            return {**content, str(rng.choice(_ABSURD)): rng.choice(_ABSURD)}
        return {**content, key: altered(content[key], rng)}
    if isinstance(content, list) and content and rng.random() < 0.85:
        place = rng.randrange(len(content))
        return [*content[:place], altered(content[place], rng), *content[place + 1 :]]
    return rng.choice(_ABSURD)


def mangled(content: bytes, rng: random.Random) -> bytes:
    """The bytes with a few replaced, removed, doubled or cut off."""
    for _ in range(rng.randint(1, 4)):
        place, way = rng.randrange(len(content) + 1), rng.random()
        if way < 0.2:
            content = content[:place]
        elif way < 0.6:
            content = content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
        elif way < 0.8:
            content = content[:place] + rng.choice(_INSERTED) + content[place:]
        else:
            content = content[:place] + content[max(0, place - rng.randrange(50)) :]
    return content


def damaged(
    content: bytes, rng: random.Random, *, load: Callable[[str], Any], dump: Callable[[Any], str]
) -> bytes:
    """A file with a few values or bytes replaced."""
    if rng.random() < 0.3:
        return mangled(content, rng)
    value = load(content.decode())
    for _ in range(rng.randint(1, 3)):
        value = altered(value, rng)
    try:
        return dump(value).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError, OverflowError):
        return mangled(content, rng)


class Readers:
    """What reads each kind of input, with the good files that are damaged."""

    def __init__(self, folder: Path, *, run: Path, data: Path) -> None:
        self.folder, self.run = folder, run
        self.llama = folder / "llama"
        tiny_config().save_pretrained(self.llama)
        self.methods = discover("autopeft.methods")
        self.csv = (data / "train.csv").read_bytes()
        self.spaces = [path.read_bytes() for path in sorted(Path("search_spaces").glob("*.yaml"))]

    def written(self, name: str, content: bytes) -> Path:
        """A file of these bytes."""
        path = self.folder / "input" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    def json_of(self, path: Path, rng: random.Random) -> bytes:
        """A JSON file with damages."""
        return damaged(path.read_bytes(), rng, load=json.loads, dump=json.dumps)

    def yaml_of(self, content: bytes, rng: random.Random) -> bytes:
        """A YAML file with damages."""
        return damaged(content, rng, load=yaml.safe_load, dump=yaml.safe_dump)

    def assignment(self, rng: random.Random) -> object:
        """`--set name=value`."""
        name = rng.choice([*SETTING_NAMES, "search", "x.y", ""])
        words = [f"{name}={rng.choice(_ABSURD)}", f"{name}{rng.choice(_ABSURD)}"]
        return resolve_settings(config=None, env={}, flags={}, assignments=[rng.choice(words)])

    def config(self, rng: random.Random) -> object:
        """`--config run.yaml`."""
        path = self.written("run.yaml", self.yaml_of((self.run / "run.yaml").read_bytes(), rng))
        return resolve_settings(config=path, env={}, flags={}, assignments=())

    def space(self, rng: random.Random) -> object:
        """`--space FILE`."""
        path = self.written("space.yaml", self.yaml_of(rng.choice(self.spaces), rng))
        return space.load(str(path), known_methods=self.methods)

    def budget(self, rng: random.Random) -> object:
        """`--budget TEXT`."""
        text = rng.choice(["0.5%", "300k", "1.2M", "113000", "1e3", str(rng.choice(_ABSURD))])
        text = "".join(rng.choice((c, c, c, "", "%", "-", "٣", ".")) for c in text)
        return budget.parse(text, base_params=22_000_000)

    def adapter(self, rng: random.Random) -> object:
        """`count adapter_config.json`."""
        good = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
        good |= {"rank_pattern": {"0.self_attn.q_proj": 2}, "use_dora": False, "modules_to_save": None}
        content = json.dumps({**good, "peft_type": rng.choice(["LORA", "IA3", "LOHA", "VERA", "OFT", "X"])})
        made = damaged(content.encode(), rng, load=json.loads, dump=json.dumps)
        path = self.written("adapter_config.json", made)
        return pipeline.count(path, model_id=str(self.llama))

    def plan(self, rng: random.Random) -> object:
        """`count plan.yaml`."""
        path = self.written("plan.yaml", self.yaml_of((self.run / "best/plan.yaml").read_bytes(), rng))
        return pipeline.count(path)

    def table(self, rng: random.Random) -> object:
        """`--data train.csv`."""
        return self._loaded(self.written("train.csv", mangled(self.csv, rng)), "text-classification")

    def json_lines(self, rng: random.Random) -> object:
        """`--data train.jsonl` of any task."""
        kind = rng.choice(list(_GOOD_ROWS))
        rows: Any = [_GOOD_ROWS[kind](i) for i in range(80)]
        for _ in range(rng.randint(1, 3)):
            rows = altered(rows, rng) if isinstance(rows, list) else [{}]
        lines = "\n".join(json.dumps(row) for row in rows) if isinstance(rows, list) else json.dumps(rows)
        content = lines.encode("utf-8", "surrogatepass")
        return self._loaded(self.written("train.jsonl", content), rng.choice([kind, kind, *_GOOD_ROWS]))

    def _loaded(self, path: Path, task: str) -> object:
        read_rows = discover("autopeft.tasks")[task].read_rows
        return load(DataSpec(source=str(path)), seed=0, read_rows=read_rows)

    def state(self, rng: random.Random) -> object:
        """`report RUN` with a damaged file."""
        run = self.folder / "copy"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(self.run, run)
        names = ("state/search_result.json", "state/measurements.jsonl", "run.yaml", "state/scores.json")
        path = run / rng.choice(names)
        path.write_bytes(mangled(path.read_bytes(), rng))
        return pipeline.render(run)

    def kinds(self) -> dict[str, tuple[Read, int]]:
        """The readers by name, and how many of 100 rows are theirs."""
        kinds: dict[str, tuple[Read, int]] = {
            "assignment": (self.assignment, 12),
            "config": (self.config, 12),
        }
        kinds |= {"space": (self.space, 15), "budget": (self.budget, 10)}
        kinds |= {"adapter": (self.adapter, 15), "plan": (self.plan, 15), "table": (self.table, 8)}
        return kinds | {"json_lines": (self.json_lines, 10), "state": (self.state, 3)}


def tried(read: Read, rng: random.Random) -> tuple[str, str, float]:
    """`accepted`, `refused` or `failed`; the fault; and the seconds of processor time that it took."""
    started, fault = time.process_time(), ""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            read(rng)
        outcome = "accepted"
    except (AutopeftError, OSError) as error:
        outcome = "refused"
        if "\n\n" in str(error) or len(str(error)) > 3000:
            outcome, fault = "failed", f"no sentence: {str(error)[:200]!r}"
    except Exception as error:
        outcome, fault = "failed", f"{type(error).__name__}: {str(error)[:200]}"
    seconds = time.process_time() - started
    if seconds > _MOST_SECONDS:
        outcome, fault = "failed", f"{fault} took {seconds:.1f} s"
    return outcome, fault, seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON object; the exit code is 1 where an input failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--kinds", nargs="+")
    parser.add_argument("--csv", type=Path, default=Path("reports/faults/fuzzing.csv"))
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="fuzzing-"))
    model, data, run = write_model(folder / "bert"), write_data(folder / "reviews"), folder / "run"
    words = ["--model", str(model), "--data", str(data), *SETTINGS, "--out", str(run)]
    code, _, errors = search(words)
    assert code == 0, errors
    readers = Readers(folder, run=run, data=data)
    others = ("inputs", "accepted", "refused", "failed", "most_seconds", "faults")
    rows = Rows(options.csv, key=("kind", "row"), others=others)
    for kind, (read, share) in readers.kinds().items():
        wanted = -(-options.inputs * share // 100 // _PER_ROW) if kind in (options.kinds or (kind,)) else 0
        for number in range(wanted):
            if rows.has(kind, number):
                continue
            counts, faults, most = Counter[str](), {}, 0.0
            for index in range(_PER_ROW):
                outcome, fault, seconds = tried(read, random.Random(f"{kind}-{number}-{index}"))
                counts[outcome] += 1
                most = max(most, seconds)
                if fault:
                    faults.setdefault(fault, f"{number}-{index}")
            told = "; ".join(f"{where}: {fault}" for fault, where in faults.items())
            results = (counts["accepted"], counts["refused"], counts["failed"])
            rows.add(kind, number, _PER_ROW, *results, f"{most:.2f}", told)
    shutil.rmtree(folder)
    found = {"-".join(key): row["faults"] for key, row in rows.by_key.items() if row["faults"]}
    print(json.dumps({"inputs": sum(int(row["inputs"]) for row in rows.by_key.values()), "faults": found}))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
