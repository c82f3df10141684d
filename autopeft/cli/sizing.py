"""The commands that tell what training takes before it runs: `count` and `estimate`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from autopeft.cli import options as opt
from autopeft.cli.exit_codes import exit_codes
from autopeft.cli.imports import heavy_imports
from autopeft.cli.printing import print_json
from autopeft.cli.usage import at_home
from autopeft.errors import SiteError

app = typer.Typer()

_Trained = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="Plan, run, adapter_config.json or its folder, a method such as lora_r16, or full.",
        callback=at_home,
    ),
]
_Model = Annotated[
    str | None, typer.Option(help="Hub id, or directory with a config.json.", callback=at_home)
]
_Revision = Annotated[str | None, typer.Option(help="Revision of the hub model.")]


@app.command()
def count(
    trained: _Trained,
    model: _Model = None,
    revision: _Revision = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            help="Set beside PATH: another path, a method such as ia3, or full. May be repeated.",
            callback=at_home,
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables to paste into Markdown.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Count the trainable parameters of a plan, an adapter config or a method, from the model's config."""
    with exit_codes(quiet=as_json):
        with heavy_imports():
            from autopeft import commands
            from autopeft.cli import counts

        if compare:
            compared = commands.count_steps([trained, *compare], model_id=model, revision=revision)
            if as_json:
                print_json({word: counts.comparison_json(each) for word, each in compared.items()})
            else:
                print(counts.comparison_text(compared, markdown=markdown))
            return
        counted = commands.count_step(trained, model_id=model, revision=revision)
        if as_json:
            share, peak = counted.count.share_of_base, counts.comparison_json(counted)["peak_bytes"]
            print_json({**dataclasses.asdict(counted.count), "share_of_base": share, "peak_bytes": peak})
        else:
            print(counts.count_text(counted.count, counted.step, markdown=markdown))


@app.command()
def estimate(
    trained: _Trained,
    model: _Model = None,
    revision: _Revision = None,
    batch_size: Annotated[int | None, opt.whole("Rows that go through the model at once. Default 4.")] = None,
    max_length: Annotated[
        int | None, opt.whole("Tokens of each row. Default 1024, or what the model takes.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="bfloat16 or float32; auto is bfloat16 if the device computes in it.")
    ] = "auto",
    quantize: Annotated[
        str | None, typer.Option(help="none, 4bit or 8bit. Default: what the plan says, or none.")
    ] = None,
    checkpointing: Annotated[
        str, typer.Option(help="auto, on or off; auto is on where --memory asks for it.")
    ] = "auto",
    like: Annotated[
        str,
        typer.Option(help="Loop: autopeft, or trainer for that of transformers, with all logits at once."),
    ] = "autopeft",
    device: Annotated[
        str, typer.Option(help="cuda or cpu of this machine, or a card: l4, a100-80gb, h100, rtx4090, …")
    ] = "cuda",
    memory: Annotated[
        str | None, typer.Option(help="Memory of the device, such as 24GiB. Default: what the card has.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Default: that of the plan, or of the class that the config names.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Dataset, whose rows decide lengths and steps; needs the tokenizer.", callback=at_home
        ),
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Length of a full run on --data.")] = None,
    max_steps: Annotated[int | None, opt.whole("Steps of a full run, for its time.")] = None,
    gpu_price: Annotated[float | None, typer.Option(help="Price of an hour, in any currency.")] = None,
    as_json: opt.Json = False,
) -> None:
    """Estimate memory, time and price of training from the model's config: no weights, no GPU."""
    with exit_codes(quiet=as_json):
        with heavy_imports():
            from autopeft import commands
            from autopeft.cli.estimates import estimate_json, estimate_text

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
                task=task, data=data, epochs=epochs, max_steps=max_steps, price=gpu_price
            ),
        )
        estimated = commands.estimate_step(request)
        if as_json:
            print_json(estimate_json(estimated))
        else:
            print(estimate_text(estimated))
        if estimated.answer.limits is not None and not estimated.answer.limits.fits:
            raise typer.Exit(SiteError.exit_code)
