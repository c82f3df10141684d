"""The commands that need only a model's config: `count`, `estimate` and `suggest`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from autopeft.cli import options as opt
from autopeft.cli.environment import heavy_imports
from autopeft.cli.exit_codes import exit_codes
from autopeft.cli.printing import json_text
from autopeft.errors import TargetError
from autopeft.store import resolve_settings

app = typer.Typer()

_PATH = "Plan, run, adapter_config.json or its folder, or a method such as lora_r16"
_MODEL = "Hub id, or directory with a config.json."
_REVISION = "Revision of the hub model."
_DEVICE = "cuda or cpu of this machine, or a card: l4, a100-80gb, h100, rtx4090, … Default: cuda."
_MEMORY = "Memory of the device, such as 24GiB. Default: what the card has."
_DATA: Mapping[str, str | None] = {
    "data": "Dataset, for the lengths of rows and the number of steps; needs the tokenizer.",
    "text_column": None,
    "label_column": None,
}
_TASK = "Default: that of the plan, or of the class that the config names."
_COMPONENTS: Mapping[str, str | None] = {"components": None}


@app.command()
@opt.takes_settings({**_COMPONENTS, "task": _TASK})
def count(
    trained: Annotated[str, typer.Argument(metavar="PATH", help=f"{_PATH}.")],
    *,
    settings: Mapping[str, Any],
    model: Annotated[str | None, typer.Option(help=_MODEL)] = None,
    revision: Annotated[str | None, typer.Option(help=_REVISION)] = None,
    as_json: opt.Json = False,
) -> None:
    """Count the trainable parameters of a plan, adapter config or method from the model's config."""
    with exit_codes(as_json=as_json):
        spec = resolve_settings(flags=settings)
        with heavy_imports():
            from autopeft import commands
            from autopeft.cli.sizes import count_text

        counted = commands.count(
            trained,
            model_id=model,
            revision=revision,
            components=spec.model.components,
            task=settings.get("task.name"),
        )
        content = {**dataclasses.asdict(counted), "share_of_base": counted.share_of_base}
        print(json_text(content) if as_json else count_text(counted))


@app.command()
@opt.takes_settings(
    {
        "model": _MODEL,
        "revision": _REVISION,
        **_COMPONENTS,
        "batch_size": "Rows that go through the model at once. Default 4.",
        "max_length": "Tokens of each row. Default 1024, or what the model takes.",
        "dtype": "auto: 16 bits if the device computes in them.",
        "quantize": "Default: what the plan says, or none.",
        "checkpointing": "auto is on where --memory asks for it.",
        "device": _DEVICE,
        "memory": _MEMORY,
        "task": _TASK,
        **_DATA,
        "epochs": "Length of a full run on --data.",
        "max_steps": "Steps of a full run, for its time.",
        "gpu_price": None,
    }
)
def estimate(
    trained: Annotated[str, typer.Argument(metavar="PATH", help=f"{_PATH}, or full.")],
    *,
    settings: Mapping[str, Any],
    like: Annotated[
        Literal["autopeft", "trainer"],
        typer.Option(help="Loop: autopeft, or trainer for that of transformers, with all logits at once."),
    ] = "autopeft",
    as_json: opt.Json = False,
) -> None:
    """Estimate memory, time and price of training from the model's config: no weights, no GPU."""
    with exit_codes(as_json=as_json):
        spec = resolve_settings(flags=settings)
        with heavy_imports():
            from autopeft import commands
            from autopeft.cli.sizes import estimate_json, estimate_text

        estimated = commands.estimate_step(trained, spec, like=like)
        print(json_text(estimate_json(estimated)) if as_json else estimate_text(estimated))
        if estimated.answer.limits is not None and not estimated.answer.limits.fits:
            raise typer.Exit(TargetError.exit_code)


@app.command()
@opt.takes_settings(
    {
        "budget": "Such as r16, what LoRA of rank 16 trains, 0.5%, 300k, or auto, by --data. Default: r16.",
        "task": "Default: that of the class that the config names.",
        **_DATA,
        **_COMPONENTS,
        "revision": _REVISION,
        "quantize": "Default: none, or 4bit if only that fits.",
        "device": _DEVICE,
        "memory": _MEMORY,
        "gpu_price": "Price of an hour, in any currency.",
    }
)
def suggest(
    model: Annotated[
        str | None, typer.Argument(help="Hub id, or directory with a config.json. Default: the demo model.")
    ] = None,
    *,
    settings: Mapping[str, Any],
    trainer: Annotated[
        str, typer.Option("--for", help="Print lines for peft, trl, unsloth, axolotl or llama-factory.")
    ] = "peft",
    as_json: opt.Json = False,
) -> None:
    """Suggest a LoRA in seconds, with rate, batch, memory, time and price: no weights, no GPU."""
    with exit_codes(as_json=as_json):
        spec = resolve_settings(flags={"budget.requested": "r16", **settings, "model.id": model})
        with heavy_imports():
            from autopeft import commands
            from autopeft.cli.sizes import suggestion_json, suggestion_text

        suggestion = commands.suggest(spec, trainer=trainer)
        lines = suggestion.snippet(trainer) if suggestion.estimate.fits else None
        if as_json:
            print(json_text(suggestion_json(suggestion) | {"snippet": lines}))
        else:
            print(*filter(None, (suggestion_text(suggestion), lines)), sep="\n\n")
        if not suggestion.estimate.fits:
            raise typer.Exit(TargetError.exit_code)
