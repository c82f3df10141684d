"""The commands. Heavy libraries are imported inside them, so that `--help` answers at once."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from autopeft.cli import files, lists
from autopeft.cli import options as opt
from autopeft.cli.environment import (
    expand_segments,
    fit_threads,
    heavy_imports,
    open_missing_streams,
    require_docstrings,
)
from autopeft.cli.exit_codes import PlainErrors, exit_codes, reader_may_leave
from autopeft.cli.options import at_home
from autopeft.cli.printing import print_json
from autopeft.errors import SiteError
from autopeft.records import VERSION, setting_values

# Paragraphs, since rich joins lines.
_EXAMPLES = """Examples:

autopeft search --budget 0.5%  (the demo: a small model, sample data)

autopeft search --model ID --data train.csv --budget 300k

autopeft search --model ID --data DIR --max-time 2h --out first

autopeft search --resume --out first  (go on where it was stopped)

--help-all shows every option."""

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

_TUNE_EXAMPLES = """Example:

autopeft tune --model ID --budget r16 --full-steps 1250 -- python train.py {trial} {result}

The same command again goes on where it stopped; a second one at the same time shares the work."""

app = typer.Typer(
    name="autopeft",
    cls=PlainErrors,
    help="Find what to adapt under a budget: which modules, which PEFT method, which rank, at what gain.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the `autopeft` command."""
    open_missing_streams()
    require_docstrings()
    expand_segments()
    fit_threads()
    os.environ["MPLBACKEND"] = "Agg"  # charts go to files; that of a notebook may not be installed here
    app()


def _print_version(is_requested: bool) -> None:
    if is_requested:
        print(VERSION)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(epilog=_EXAMPLES)
@opt.takes_settings(opt.SEARCH_FLAGS, shown=opt.ESSENTIAL)
def search(
    *,
    settings: Mapping[str, Any],
    help_all: opt.HelpAll = False,
    resume: opt.Resume = False,
    config: opt.Config = None,
    assignments: opt.Assignments = None,
    dry_run: opt.DryRun = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Search for the best plan under a budget, train it in full, and write it down with its evidence."""
    started = time.monotonic()
    with exit_codes(quiet=quiet or as_json) as interrupt:
        from autopeft.store import resolve_settings

        spec, explicit = resolve_settings(
            config=config, env=os.environ, flags=settings, assignments=assignments or ()
        )
        with heavy_imports():
            from autopeft import commands
            from autopeft.cli import results
            from autopeft.cli.progress import progress_display
            from autopeft.report import result_json

        if dry_run:
            preview = commands.preview(spec, explicit=explicit, resume=resume, started=started)
            if as_json:
                print_json(dataclasses.asdict(preview))
            else:
                print(results.preview_text(preview))
            return
        progress = progress_display(quiet=quiet or as_json)
        try:
            result, path = commands.search(
                spec,
                explicit=explicit,
                resume=resume,
                progress=progress,
                interrupt=interrupt,
                started=started,
            )
        finally:
            progress.close()
        with reader_may_leave():
            if as_json:
                print_json({**result_json(result, "complete"), "run": str(path)})
            else:
                results.print_result(result, path)


@app.command(epilog=_TUNE_EXAMPLES)
@opt.takes_settings(
    dict.fromkeys(
        ("model", "budget", "effort", "methods", "trials", "seeds", "space", "margin", "seed", "revision")
    )
)
def tune(
    words: Annotated[list[str], typer.Argument(help="The command of a trial, behind --", metavar="COMMAND")],
    *,
    settings: Mapping[str, Any],
    full_steps: Annotated[int, opt.whole("Optimizer steps of a full run.", least=1)],
    metric: Annotated[str, typer.Option(help="What the scores are, such as accuracy.")] = "score",
    lower_is_better: Annotated[bool, typer.Option("--lower-is-better", help="Of that metric.")] = False,
    test: Annotated[bool, typer.Option("--test", help="Evaluate once on a test split, at the end.")] = False,
    auto_class: Annotated[
        str | None, typer.Option(help="Class that the trainer loads, such as AutoModelForCausalLM.")
    ] = None,
    trial_time: Annotated[
        str | None, typer.Option(help="Time after which a trial is ended, such as 2h.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to; one with this study goes on with it.", callback=at_home),
    ] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Search with your own trainer: a command that trains and scores one trial, {trial}, into {result}."""
    with exit_codes(quiet=quiet or as_json) as interrupt:
        from autopeft.store import parse_duration

        max_seconds = None if trial_time is None else parse_duration(trial_time)
        with heavy_imports():
            from autopeft import commands
            from autopeft.cli import results
            from autopeft.commands.tune import command
            from autopeft.report import result_json
            from autopeft.run.ask_tell import Study

        train = command(words, max_seconds=max_seconds)
        study = Study(
            full_steps=full_steps,
            out=out,
            metric=metric,
            greater_is_better=not lower_is_better,
            test=test,
            auto_class=auto_class,
            **settings,
        )
        result = commands.tune(train, study, interrupt=interrupt)
        with reader_may_leave():
            if as_json:
                print_json({**result_json(result, "complete"), "run": str(study.path)})
            else:
                results.print_result(result, study.path)


@app.command()
@opt.takes_settings(
    dict.fromkeys(("model", "data", "task", "text_column", "label_column", "budget", "quantize"))
    | {"seed": "Seed of the sample of examples. Default 0."}
)
def analyze(
    *,
    settings: Mapping[str, Any],
    scores: Annotated[
        str, typer.Option(help="Scores, separated by commas; the first one makes the suggestion.")
    ] = "gradient,fisher",
    max_examples: Annotated[int | None, opt.whole("Examples to look at, at most.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for sensitivity.csv, heat.svg and suggestion.yaml; must be empty or absent.",
            callback=at_home,
        ),
    ] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Score every site by how much the loss depends on it, and suggest a plan. Nothing is trained."""
    with exit_codes(quiet=quiet or as_json):
        from autopeft.store import resolve_settings

        spec, explicit = resolve_settings(config=None, env=os.environ, flags=settings, assignments=())
        with heavy_imports():
            from autopeft import commands
            from autopeft.cli import results

        names = [name.strip() for name in scores.split(",")]
        out = out or (None if spec.output.out is None else Path(spec.output.out))
        analysis = commands.analyze(spec, scores=names, explicit=explicit, max_examples=max_examples, out=out)
        if as_json:
            print_json(results.analysis_json(analysis))
        else:
            print(results.analysis_text(analysis))


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
            from autopeft.cli import sizes

        if compare:
            compared = commands.count_steps([trained, *compare], model_id=model, revision=revision)
            if as_json:
                print_json({word: sizes.comparison_json(each) for word, each in compared.items()})
            else:
                print(sizes.comparison_text(compared, markdown=markdown))
            return
        counted = commands.count_step(trained, model_id=model, revision=revision)
        if as_json:
            share, peak = counted.count.share_of_base, sizes.comparison_json(counted)["peak_bytes"]
            print_json({**dataclasses.asdict(counted.count), "share_of_base": share, "peak_bytes": peak})
        else:
            print(sizes.count_text(counted.count, counted.step, markdown=markdown))


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


@app.command()
@opt.takes_settings(
    {
        "model": "Base model in place of the plan's.",
        "data": "Dataset in place of the plan's, with the columns that the plan names.",
        "seed": "Seed in place of the plan's.",
        "device": "Torch device: cpu, cuda, cuda:1 or mps. Default: a GPU, if there is one.",
        "dtype": None,
        "memory": None,
        "micro_batch_tokens": None,
        "checkpointing": None,
        "quantize": "4bit, 8bit or none, in place of what the plan says.",
        "out": None,
    }
)
def train(
    *,
    plan: Annotated[Path, typer.Option(help="plan.yaml, or a run directory.", callback=at_home)],
    settings: Mapping[str, Any],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a training that was stopped.", metavar="")
    ] = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train a plan at full length and save the adapter, head included, as peft does."""
    with exit_codes(quiet=quiet or as_json):
        from autopeft.store import resolve_settings

        spec, explicit = resolve_settings(config=None, env=os.environ, flags=settings, assignments=())
        with heavy_imports():
            from autopeft import commands
            from autopeft.report.formatting import metric as metric_words

        settings = setting_values(spec, explicit)
        out = settings.get("output.out")
        execution = ("device", "dtype", "memory_bytes", "micro_batch_tokens", "checkpointing")
        overridden = ("model.quantize", *(f"execution.{name}" for name in execution))
        trained = commands.train_plan(
            plan,
            out=None if out is None else Path(out),
            seed=settings.get("search.seed"),
            model_id=settings.get("model.id"),
            data_source=settings.get("data.source"),
            overrides={name: settings.get(name) for name in overridden},
            resume=resume,
        )
        measurement = trained.measurement
        if as_json:
            answer = {
                "metric": measurement.metric,
                "metric_name": trained.metric,
                "loss": measurement.loss,
                "out": str(trained.folder),
            }
            print_json(answer)
        else:
            # A language model's metric may be its loss.
            score = metric_words(measurement.metric, trained.is_share)
            metric = "" if trained.metric == "loss" else f"{trained.metric} {score} and "
            print(f"{metric}loss {measurement.loss:.4f} on the confirm split")
            print(f"adapter {trained.folder}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.", callback=at_home)],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for one page about several runs. Default: ./autopeft-runs.html.", callback=at_home
        ),
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """Render the report of a finished run again, or put several runs on one page."""
    with exit_codes(quiet=as_json):
        with heavy_imports():
            from autopeft.cli import results
            from autopeft.report import result_json
            from autopeft.run.reporting import render, render_several

        runs = list({run.resolve(): run for run in runs}.values())  # a folder that is named twice counts once
        if len(runs) > 1 or out is not None:
            page = out or Path("autopeft-runs.html")
            finished = render_several(runs, page)
            if as_json:
                print_json({"page": str(page), "runs": [result_json(each, "complete") for each in finished]})
            else:
                results.print_several(runs, finished, page)
            return
        (run,) = runs
        result = render(run)
        if as_json:
            print_json({**result_json(result, "complete"), "run": str(run)})
        else:
            results.print_result(result, run)


app.add_typer(files.app)
app.add_typer(lists.app)
