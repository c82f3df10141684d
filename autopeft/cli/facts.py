"""The commands that need only a model's config: `count`, `estimate` and `suggest`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from autopeft.cli import options as opt
from autopeft.cli.environment import heavy_imports
from autopeft.cli.exit_codes import exit_codes
from autopeft.cli.printing import print_json
from autopeft.errors import TargetError
from autopeft.store import resolve_settings

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
    "data": "Dataset, for the lengths of rows and the number of steps; needs the tokenizer.",
    "text_column": None,
    "label_column": None,
}


@app.command()
def count(
    trained: Annotated[str, typer.Argument(metavar="PATH", help=f"{_PATH}.")],
    model: _BaseModel = None,
    revision: _Revision = None,
    as_json: opt.Json = False,
) -> None:
    """Count the trainable parameters of a plan, adapter config or method from the model's config."""
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
    """Suggest a LoRA in seconds, with rate, batch, memory, time and price: no weights, no GPU."""
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
                trainer=trainer,
            )
        )
        lines = suggestion.snippet(trainer) if suggestion.estimate.fits else None
        if as_json:
            print_json(sizes.suggestion_json(suggestion) | {"snippet": lines})
        else:
            print(*filter(None, (sizes.suggestion_text(suggestion), lines)), sep="\n\n")
        if not suggestion.estimate.fits:
            raise typer.Exit(TargetError.exit_code)
