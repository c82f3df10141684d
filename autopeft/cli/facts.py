"""The commands that say what there is and what it takes, before anything is trained."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from autopeft.cli import options as opt
from autopeft.cli.environment import heavy_imports
from autopeft.cli.exit_codes import exit_codes
from autopeft.cli.printing import columns, lines_of, print_json, table
from autopeft.errors import TargetError
from autopeft.plugins import REFERENCE_WIDTH, Catalogue, Method, discover, missing_in_peft
from autopeft.store import resolve_settings
from autopeft.types import rate

if TYPE_CHECKING:
    from autopeft.commands.doctor import Check

app = typer.Typer()

_Bits = Literal["none", "4bit", "8bit"]

_PATH = "Plan, run, adapter_config.json or its folder, or a method such as lora_r16"
_BaseModel = Annotated[str | None, typer.Option(help="Hub id, or directory with a config.json.")]
_Revision = Annotated[str | None, typer.Option(help="Revision of the hub model.")]
_Device = Annotated[
    str, typer.Option(help="cuda or cpu of this machine, or a card: l4, a100-80gb, h100, rtx4090, …")
]
_Memory = Annotated[
    str | None, typer.Option(help="Memory of the device, such as 24GiB. Default: what the card has.")
]
_DATA: Mapping[str, str | None] = {
    "data": "Dataset, whose rows decide lengths and steps; needs the tokenizer.",
    "text_column": None,
    "label_column": None,
}

# Facts of plug-ins, whose import would take seconds; `tools/docs/plugin_facts.py` writes the file.
# If another package publishes parts, all parts are imported instead.
TABLE = Path(__file__).with_name("plugins.json")


@app.command()
def count(
    trained: Annotated[str, typer.Argument(metavar="PATH", help=f"{_PATH}.")],
    model: _BaseModel = None,
    revision: _Revision = None,
    as_json: opt.Json = False,
) -> None:
    """Count the trainable parameters of a plan, an adapter config or a method, from the model's config."""
    with exit_codes(as_json=as_json):
        with heavy_imports():
            from autopeft import commands
            from autopeft.cli import sizes

        counted = commands.count(trained, model_id=model, revision=revision)
        if as_json:
            print_json({**dataclasses.asdict(counted), "share_of_base": counted.share_of_base})
        else:
            print(sizes.count_text(counted))


@app.command()
@opt.takes_settings(_DATA)
def estimate(
    trained: Annotated[str, typer.Argument(metavar="PATH", help=f"{_PATH}, or full.")],
    *,
    model: _BaseModel = None,
    revision: _Revision = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows that go through the model at once. Default 4.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Tokens of each row. Default 1024, or what the model takes.")
    ] = None,
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"],
        typer.Option(help="bfloat16, float16 or float32; auto: 16 bits if the device computes in them."),
    ] = "auto",
    quantize: Annotated[
        _Bits | None, typer.Option(help="none, 4bit or 8bit. Default: what the plan says, or none.")
    ] = None,
    checkpointing: Annotated[
        Literal["auto", "on", "off"],
        typer.Option(help="auto, on or off; auto is on where --memory asks for it."),
    ] = "auto",
    like: Annotated[
        Literal["autopeft", "trainer"],
        typer.Option(help="Loop: autopeft, or trainer for that of transformers, with all logits at once."),
    ] = "autopeft",
    device: _Device = "cuda",
    memory: _Memory = None,
    task: Annotated[
        str | None, typer.Option(help="Default: that of the plan, or of the class that the config names.")
    ] = None,
    settings: Mapping[str, Any],
    epochs: Annotated[float | None, typer.Option(min=0.001, help="Length of a full run on --data.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Steps of a full run, for its time.")] = None,
    gpu_price: Annotated[float | None, typer.Option(min=0, help="Price of an hour, in any currency.")] = None,
    as_json: opt.Json = False,
) -> None:
    """Estimate memory, time and price of training from the model's config: no weights, no GPU."""
    with exit_codes(as_json=as_json):
        spec, _ = resolve_settings(config=None, env={}, flags=settings, assignments=())
        with heavy_imports():
            from autopeft import commands
            from autopeft.cli.sizes import estimate_json, estimate_text

        request = commands.EstimateRequest(
            trained=trained,
            model_id=model,
            revision=revision,
            batch_size=batch_size,
            max_length=max_length,
            dtype=dtype,
            quantize=quantize,
            checkpointing=checkpointing,
            like=like,
            device=device,
            memory=memory,
            run=commands.RunRequest(
                task=task, data=spec.data, epochs=epochs, max_steps=max_steps, price=gpu_price
            ),
        )
        estimated = commands.estimate_step(request)
        if as_json:
            print_json(estimate_json(estimated))
        else:
            print(estimate_text(estimated))
        if estimated.answer.limits is not None and not estimated.answer.limits.fits:
            raise typer.Exit(TargetError.exit_code)


@app.command()
@opt.takes_settings(_DATA)
def suggest(
    model: Annotated[
        str | None, typer.Argument(help="Hub id, or directory with a config.json. Default: the demo model.")
    ] = None,
    *,
    budget: Annotated[
        str, typer.Option(help="Such as r16, what LoRA of rank 16 trains, 0.5% or 300k.")
    ] = "r16",
    task: Annotated[
        str | None, typer.Option(help="Default: that of the class that the config names.")
    ] = None,
    settings: Mapping[str, Any],
    revision: _Revision = None,
    quantize: Annotated[_Bits | None, typer.Option(help="none, 4bit or 8bit. Default: none.")] = None,
    device: _Device = "cuda",
    memory: _Memory = None,
    gpu_price: Annotated[float | None, typer.Option(min=0, help="Price of an hour, in any currency.")] = None,
    trainer: Annotated[
        str, typer.Option("--for", help="Print lines for peft, trl, unsloth, axolotl or llama-factory.")
    ] = "peft",
    as_json: opt.Json = False,
) -> None:
    """Suggest a LoRA within seconds: rate, batch, memory, time and price. It needs no weights and no GPU."""
    with exit_codes(as_json=as_json):
        spec, _ = resolve_settings(config=None, env={}, flags=settings, assignments=())
        with heavy_imports():
            from autopeft import commands
            from autopeft.cli import sizes

        suggestion = commands.suggest(
            commands.SuggestRequest(
                model_id=model,
                revision=revision,
                budget=budget,
                task=task,
                data=spec.data,
                device=device,
                memory=memory,
                gpu_price=gpu_price,
                quantize=quantize,
            )
        )
        lines = suggestion.snippet(trainer)
        if as_json:
            print_json(sizes.suggestion_json(suggestion) | {"snippet": lines})
        else:
            print(sizes.suggestion_text(suggestion), lines, sep="\n\n")


@app.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(help="Describe this method in full, with its sources.")
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """List the PEFT methods, or describe one."""
    with exit_codes(as_json=as_json):
        facts = plugin_facts("method")
        shown = list(facts.values()) if name is None else [facts[name]]
        if as_json:
            print_json({method["name"]: method for method in shown})
        elif name is not None:
            _print_method(shown[0])
        else:
            _print_table(
                ("name", "method", "what is trained", "merges", "learning rate"),
                [(m["name"], m["label"], m["summary"], _yes_or_no(m["merges"]), _range(m)) for m in shown],
            )
            note = f"The learning rates are for a hidden size of {REFERENCE_WIDTH}; a search adapts them."
            print("", *lines_of([note, *facts.broken.values()]), sep="\n")


@app.command()
def formats(as_json: opt.Json = False) -> None:
    """List the formats that `export` writes."""
    with exit_codes(as_json=as_json):
        rows = [(name, facts["summary"]) for name, facts in plugin_facts("export").items()]
        if as_json:
            print_json(dict(rows))
        else:
            _print_table(("format", "what it is"), rows)


@app.command()
def spaces(
    name: Annotated[
        str | None,
        typer.Argument(help="Print the file of this space, or check and print a file of your own."),
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """List the search spaces that come with autopeft, or print the file of one, to copy and change."""
    with exit_codes(as_json=as_json):
        from autopeft import space as search_space

        all_methods = plugin_facts("method").changed(lambda facts: SimpleNamespace(**facts))
        shown = search_space.names() if name is None else (name,)
        loaded = {
            name: search_space.load(name, known_methods=cast(Mapping[str, Method], all_methods))
            for name in shown
        }
        if name is not None and not as_json:
            print(search_space.text_of(name), end="")
        elif as_json:
            print_json({name: space.model_dump(mode="json") for name, space in loaded.items()})
        else:
            rows = [(name, space.about, ", ".join(space.arms)) for name, space in loaded.items()]
            _print_table(("space", "about", "methods and mixes"), rows)


@app.command()
def doctor(
    out: Annotated[Path, typer.Option(help="Folder for runs, which has to take a file.")] = Path("reports"),
    as_json: opt.Json = False,
) -> None:
    """Check what this machine can do: versions, device, memory, threads, disk, hub, extras."""
    with exit_codes(as_json=as_json, quiet=True):
        from autopeft.commands.doctor import diagnose

        checks = diagnose(out)
        is_well = all(check.status != "fail" for check in checks)
        if as_json:
            print_json({"ok": is_well, "checks": [dataclasses.asdict(check) for check in checks]})
        else:
            print(checks_text(checks))
        if not is_well:
            raise typer.Exit(1)


def checks_text(checks: Sequence[Check]) -> str:
    """Write the checks of a machine in columns, each with its remedy below, and how many failed."""
    rows = [
        (mark, name, text)
        for check in checks
        for mark, name, text in ((check.status, check.name, check.value), ("", "", check.remedy))
        if text
    ]
    lines = table((), rows, n_texts=3, width=columns())
    n_failed = sum(check.status == "fail" for check in checks)
    end = f"{n_failed} of {len(checks)} checks failed." if n_failed else "Nothing fails here."
    return "\n".join([*lines, "", end])


def _print_method(method: Mapping[str, Any]) -> None:
    """Print everything about one method, at most 80 columns wide."""
    choices = {
        option: (str(value).lower() if isinstance(value, bool) else str(value) for value in values)
        for option, values in method["choices"].items()
    }
    options = (f"{option} {', '.join(values)}" for option, values in choices.items())
    servers = ", ".join(method["servers"])
    facts = {
        "trains": method["summary"],
        "parameters": f"{method['formula']}, for a map of n inputs and m outputs",
        "ranks": "yes" if method["ranked"] else "none",
        "identity at start": _yes_or_no(method["identity_at_start"]),
        "merges": _yes_or_no(method["merges"]),
        "read by": servers or ("peft alone; merge it to serve it" if method["merges"] else "peft alone"),
        "learning rates": f"{_range(method)} at width {REFERENCE_WIDTH}: {method['learning_rate_source']}",
        "step time": f"{method['step_time']:.2f}: {method['step_time_source']}",
        "options": "; ".join(options) or "none",
    }
    lines = table((), facts.items(), n_texts=2, width=columns())
    print(f"{method['name']}: {method['label']}", "", *lines, sep="\n")


def _print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(*table(headers, rows, n_texts=len(headers)), sep="\n")


def _range(method: Mapping[str, Any]) -> str:
    return " … ".join(map(rate, method["learning_rate_range"]))


def _yes_or_no(fact: bool) -> str:
    return "yes" if fact else "no"


_METHOD_FACTS = (
    "name label short_label summary formula ranked low_rank shared identity_at_start merges "
    "learning_rate_range learning_rate_source step_time step_time_source choices readable_type"
).split()


def method_facts(method: Method) -> dict[str, Any]:
    """Collect what a method says of itself, as values that JSON can hold."""
    facts = {name: getattr(method, name) for name in _METHOD_FACTS}
    return {**facts, "servers": list(method.servers({})), "since_peft": method.since_peft}


FACTS: Mapping[str, Callable[[Any], Mapping[str, Any]]] = {
    "method": method_facts,
    "export": lambda exporter: {"name": exporter.name, "summary": exporter.summary},
}


def plugin_facts(kind: str) -> Catalogue[Mapping[str, Any]]:
    """Read the facts about every part of a kind, by name; looking up another name raises UnknownNameError."""
    group = f"autopeft.{kind}s"
    if metadata.entry_points(group=group):
        parts: Catalogue[Any] = discover(group)
        return parts.changed(FACTS[kind])
    facts = json.loads(TABLE.read_text(encoding="utf-8"))[kind]
    missing = {
        name: sentence
        for name, each in facts.items()
        if (sentence := missing_in_peft(each.get("label", ""), each.get("since_peft", "")))
    }
    return Catalogue(kind, {name: each for name, each in facts.items() if name not in missing}, missing)
