"""Damaged and absurd inputs for everything that reads: only errors of our own, and none that hangs.

Inputs are good files with a few leaves, keys or bytes replaced. An input fails where anything but an
AutopeftError or an OSError is raised, or where it takes more than 5 seconds of processor time.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from toys.counting import tiny_config

from autopeft import budget, commands, space
from autopeft.data import load
from autopeft.errors import AutopeftError
from autopeft.plugins import discover
from autopeft.run.reporting import render
from autopeft.store import resolve_settings
from autopeft.types import SETTINGS as SETTING_NAMES
from autopeft.types import DataSpec

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
        return commands.count(path, model_id=str(self.llama))

    def plan(self, rng: random.Random) -> object:
        """`count plan.yaml`."""
        path = self.written("plan.yaml", self.yaml_of((self.run / "best/plan.yaml").read_bytes(), rng))
        return commands.count(path)

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
        names = ("state/search_result.json", "state/measurements.jsonl", "run.yaml", "state/state.json")
        path = run / rng.choice(names)
        path.write_bytes(mangled(path.read_bytes(), rng))
        return render(run)

    def kinds(self) -> dict[str, Read]:
        """The readers by name."""
        names = "assignment config space budget adapter plan table json_lines state".split()
        return {name: getattr(self, name) for name in names}


def fault_of(read: Read, rng: random.Random) -> str:
    """What is wrong with how an input is answered, or nothing."""
    started, fault = time.process_time(), ""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            read(rng)
    except (AutopeftError, OSError) as error:
        if "\n\n" in str(error) or len(str(error)) > 3000:
            fault = f"no sentence: {str(error)[:200]!r}"
    except Exception as error:
        fault = f"{type(error).__name__}: {str(error)[:200]}"
    seconds = time.process_time() - started
    return f"{fault} took {seconds:.1f} s" if seconds > _MOST_SECONDS else fault
