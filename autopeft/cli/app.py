"""The commands. Heavy libraries are imported inside them, so that `--help` answers at once."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from autopeft.cli import options as opt
from autopeft.cli.told import told
from autopeft.records import VERSION

app = typer.Typer(
    name="autopeft",
    help="Find what to adapt under a budget: which modules, which PEFT method, which rank, what it is worth.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the `autopeft` command."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        print(VERSION)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
    pass


@app.command()
@opt.takes_settings(opt.SEARCH_FLAGS)
def search(
    *,
    settings: Mapping[str, Any],
    resume: opt.Resume = False,
    config: opt.Config = None,
    assignments: opt.Assignments = None,
    dry_run: opt.DryRun = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Search the best plan under a budget, confirm it, and write it down with its evidence."""
    with told(quiet=quiet or as_json):
        from autopeft.store import resolve_settings

        spec, given = resolve_settings(
            config=config, env=os.environ, flags=settings, assignments=assignments or ()
        )
        from autopeft import pipeline, report
        from autopeft.cli import tables
        from autopeft.cli.display import display

        if dry_run:
            preview = pipeline.preview(spec, given=given, resume=resume)
            _answer(dataclasses.asdict(preview)) if as_json else tables.print_preview(preview)
            return
        progress = display(quiet=quiet or as_json)
        try:
            result, path = pipeline.search(spec, given=given, resume=resume, progress=progress)
        finally:
            progress.close()
        if as_json:
            _answer({**report.result_json(result, "complete"), "run": str(path)})
        else:
            tables.print_result(result, path)


@app.command()
@opt.takes_settings(
    {
        "model": None,
        "data": None,
        "task": None,
        "text_column": None,
        "label_column": None,
        "budget": None,
        "quantize": None,
        "seed": "Seed of the sample of examples. Default 0.",
    }
)
def analyze(
    *,
    settings: Mapping[str, Any],
    scores: Annotated[
        str, typer.Option(help="Scores, separated by commas; the first one makes the suggestion.")
    ] = "gradient,fisher",
    max_examples: Annotated[int | None, typer.Option(help="Examples to look at, at most.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for sensitivity.csv, heat.svg and suggestion.yaml; must be empty or absent."
        ),
    ] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Score every site by how much the loss depends on it, and suggest a plan. Nothing is trained."""
    with told(quiet=quiet or as_json):
        from autopeft.store import resolve_settings

        spec, given = resolve_settings(config=None, env=os.environ, flags=settings, assignments=())
        from autopeft import pipeline
        from autopeft.cli import heat

        names = [name.strip() for name in scores.split(",")]
        analysis = pipeline.analyze(spec, scores=names, given=given, max_examples=max_examples, out=out)
        if as_json:
            _answer(heat.analysis_json(analysis))
        else:
            heat.print_analysis(analysis)


@app.command()
def count(
    path: Annotated[Path, typer.Argument(help="plan.yaml, a run, or an adapter_config.json or its folder.")],
    model: Annotated[str | None, typer.Option(help="Hub id or directory with config.json.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of the hub model.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables to paste into Markdown.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Count the trainable parameters of a plan or an adapter config, from the model's config alone."""
    with told(quiet=as_json):
        from autopeft import pipeline
        from autopeft.cli.counts import count_text

        counted = pipeline.count(path, model_id=model, revision=revision)
        if as_json:
            _answer({**dataclasses.asdict(counted), "percent": counted.percent})
        else:
            print(count_text(counted, markdown=markdown))


@app.command()
@opt.takes_settings(
    {
        "model": "Base model in place of the plan's.",
        "data": "Dataset in place of the plan's, with the columns that the plan names.",
        "seed": "Seed in place of the plan's.",
        "forgetting": None,
        "device": None,
        "dtype": None,
        "quantize": "4bit, 8bit or none, in place of what the plan says.",
        "out": None,
    }
)
def train(
    *,
    plan: Annotated[Path, typer.Option(help="plan.yaml, or a run directory.")],
    settings: Mapping[str, Any],
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train a plan at full length and save the adapter, head included, as peft does."""
    with told(quiet=quiet or as_json):
        from autopeft import pipeline
        from autopeft import report as reports

        trained = pipeline.train_plan(
            plan,
            out=settings.get("output.out"),
            seed=settings.get("search.seed"),
            model_id=settings.get("model.id"),
            data_source=settings.get("data.source"),
            forgetting=settings.get("forgetting.source"),
            overrides={
                name: settings.get(name) for name in ("execution.device", "execution.dtype", "model.quantize")
            },
        )
        measurement, found = trained.measurement, trained.forgetting
        if as_json:
            forgot = {"forgetting": reports.forgetting_json(found)} if found else {}
            answer = {"metric": measurement.metric, "loss": measurement.loss, "out": str(trained.folder)}
            _answer({**answer, **forgot})
        else:
            print(f"metric {measurement.metric:.4f} and loss {measurement.loss:.4f} on the confirm split")
            if found is not None:
                print(reports.forgetting_line(found))
            print(f"adapter {trained.folder}")


@app.command()
def export(
    to: Annotated[
        str,
        typer.Option(
            help="Format: native, uniform-lora, converted-lora, merged, axolotl, llama-factory or trl."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to; must be empty or absent.")],
    run: Annotated[Path | None, typer.Option(help="Run directory; its best plan, trained or not.")] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Folder that peft, `train` or a run's best/weights wrote.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Base model in place of the one that it names.")] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read an adapter_model.bin, its tensors alone.")
    ] = False,
    rank: Annotated[int | None, typer.Option(help="Of converted-lora: the rank at every site.")] = None,
    energy: Annotated[
        float | None, typer.Option(help="Of converted-lora: the share kept at every site. Default 0.99.")
    ] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Write a plan or a trained adapter in a format that other tools read, or say why it cannot be."""
    with told(quiet=quiet or as_json):
        from autopeft import pipeline

        request = pipeline.ExportRequest(
            to=to,
            out=out,
            run=run,
            adapter=adapter,
            model_id=model,
            allow_pickle=allow_pickle,
            rank=rank,
            energy=energy,
        )
        written = pipeline.export(request)
        if as_json:
            _answer(dataclasses.asdict(written))
            return
        print(f"{written.format} {written.out}: {', '.join(written.files)}")
        for note in written.notes:
            print(f"- {note}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    as_json: opt.Json = False,
) -> None:
    """Render the report of a finished run again."""
    with told(quiet=as_json):
        from autopeft import pipeline
        from autopeft import report as reports
        from autopeft.cli import tables

        result = pipeline.render(run)
        if as_json:
            _answer({**reports.result_json(result, "complete"), "run": str(run)})
        else:
            tables.print_result(result, run)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Say all of this one, sources included.")] = None,
    as_json: opt.Json = False,
) -> None:
    """List the PEFT methods, or describe one."""
    with told(quiet=as_json):
        from autopeft.cli import described, tables
        from autopeft.extension import discover

        known = discover("autopeft.methods")
        found = list(known.values()) if name is None else [known[name]]
        if as_json:
            _answer({part.name: described.method_json(part) for part in found})
        elif name is None:
            tables.print_rows(described.METHOD_COLUMNS, described.method_rows(found))
        else:
            print(described.method_text(found[0]))


@app.command()
def spaces(as_json: opt.Json = False) -> None:
    """List the search spaces that come with autopeft."""
    with told(quiet=as_json):
        from autopeft import space as search_space
        from autopeft.cli import tables
        from autopeft.extension import discover

        known = discover("autopeft.methods")
        found = {name: search_space.load(name, known_methods=known) for name in search_space.names()}
        if as_json:
            _answer({name: own.model_dump(mode="json") for name, own in found.items()})
            return
        rows = [(name, own.about, ", ".join(own.arms)) for name, own in found.items()]
        tables.print_rows(("space", "about", "methods and mixes"), rows)


def _answer(content: Any) -> None:
    print(json.dumps(content, indent=2, allow_nan=False))
