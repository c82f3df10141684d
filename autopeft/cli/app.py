"""The commands. Heavy libraries are imported inside them, so that `--help` answers at once."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autopeft.cli import lists, sizing, verify_push
from autopeft.cli import options as opt
from autopeft.cli.exit_codes import exit_codes, reader_may_leave
from autopeft.cli.imports import expand_segments, fit_threads, heavy_imports
from autopeft.cli.printing import columns, print_json
from autopeft.cli.usage import PlainErrors, at_home, open_missing_streams, require_docstrings
from autopeft.records import VERSION, setting_values

if TYPE_CHECKING:
    from autopeft.doctor import Check

# Paragraphs, since rich joins lines.
_EXAMPLES = """Examples:

autopeft search --budget 0.5%  (the demo: a small model, sample data)

autopeft search --model ID --data train.csv --budget 300k

autopeft search --model ID --data DIR --max-time 2h --out first

autopeft search --resume --out first  (go on where it was stopped)

--help-all shows every option."""

_MARKS = {"ok": "ok", "note": "note", "fail": "FAIL"}  # of the checks of `doctor`

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


def _version(wanted: bool) -> None:
    if wanted:
        print(VERSION)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
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

        spec, given = resolve_settings(
            config=config, env=os.environ, flags=settings, assignments=assignments or ()
        )
        with heavy_imports():
            from autopeft import commands, report
            from autopeft.cli import previews, tables
            from autopeft.cli.progress import progress_display

        if dry_run:
            preview = commands.preview(spec, given=given, resume=resume, started=started)
            if as_json:
                print_json(dataclasses.asdict(preview))
            else:
                print(previews.preview_text(preview))
            return
        progress = progress_display(quiet=quiet or as_json)
        try:
            result, path = commands.search(
                spec,
                given=given,
                resume=resume,
                progress=progress,
                interrupt=interrupt,
                started=started,
            )
        finally:
            progress.close()
        with reader_may_leave():
            if as_json:
                print_json({**report.result_json(result, "complete"), "run": str(path)})
            else:
                tables.print_result(result, path)


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

        spec, given = resolve_settings(config=None, env=os.environ, flags=settings, assignments=())
        with heavy_imports():
            from autopeft import commands
            from autopeft.cli import tables

        names = [name.strip() for name in scores.split(",")]
        out = out or (None if spec.output.out is None else Path(spec.output.out))
        analysis = commands.analyze(spec, scores=names, given=given, max_examples=max_examples, out=out)
        if as_json:
            print_json(tables.analysis_json(analysis))
        else:
            tables.print_analysis(analysis)


app.add_typer(sizing.app)


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

        spec, given = resolve_settings(config=None, env=os.environ, flags=settings, assignments=())
        with heavy_imports():
            from autopeft import commands
            from autopeft.report.words import metric as metric_words

        settings = setting_values(spec, given)
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
def export(
    to: Annotated[str, typer.Option(help="Name of the format; `autopeft formats` lists them.")],
    out: Annotated[Path, typer.Option(help="Folder to write to; must be empty or absent.", callback=at_home)],
    run: Annotated[
        Path | None,
        typer.Option(help="Run directory; its best plan is exported, trained or not.", callback=at_home),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(help="Folder that peft, `train` or a run's best/weights wrote.", callback=at_home),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Base model in place of the one that the run or adapter names.", callback=at_home),
    ] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option("--allow-pickle", help="Read an adapter_model.bin too; only its tensors are loaded."),
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Number format of a whole model: float32, bfloat16 or float16. Default: its checkpoint's."
        ),
    ] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Write a plan or a trained adapter in a format that other tools read, or say why it does not fit."""
    with exit_codes(quiet=quiet or as_json):
        with heavy_imports():
            from autopeft import commands

        request = commands.ExportRequest(
            to=to,
            out=out,
            run=run,
            adapter=adapter,
            model_id=model,
            allow_pickle=allow_pickle,
            dtype=dtype,
        )
        written = commands.export(request)
        if as_json:
            print_json(dataclasses.asdict(written))
            return
        print(f"{written.format} {written.out}: {', '.join(written.files)}")
        for note in written.notes:
            print(f"- {note}")


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
            from autopeft import commands
            from autopeft import report as reports
            from autopeft.cli import tables

        runs = list({run.resolve(): run for run in runs}.values())  # a folder that is named twice counts once
        if len(runs) > 1 or out is not None:
            page = out or Path("autopeft-runs.html")
            results = commands.render_several(runs, page)
            if as_json:
                answers = [reports.result_json(result, "complete") for result in results]
                print_json({"page": str(page), "runs": answers})
            else:
                tables.print_several(runs, results, page)
            return
        (run,) = runs
        result = commands.render(run)
        if as_json:
            print_json({**reports.result_json(result, "complete"), "run": str(run)})
        else:
            tables.print_result(result, run)


app.add_typer(verify_push.app)


@app.command()
def doctor(
    out: Annotated[Path, typer.Option(help="Folder for runs, whose disk is timed.", callback=at_home)] = Path(
        "reports"
    ),
    as_json: opt.Json = False,
) -> None:
    """Check what this machine can do: versions, device, memory, threads, disk, hub, extras."""
    with exit_codes(quiet=True):
        from autopeft.doctor import diagnose

        checks = diagnose(out)
        is_well = all(check.status != "fail" for check in checks)
        if as_json:
            print_json({"ok": is_well, "checks": [dataclasses.asdict(check) for check in checks]})
        else:
            print(checks_text(checks))
        if not is_well:
            raise typer.Exit(1)


def checks_text(checks: Sequence[Check]) -> str:
    """The checks of a machine in columns, and how many failed."""
    width = max(len(check.name) for check in checks)
    indent = " " * (width + 8)
    lines = []
    for check in checks:
        head = f"{_MARKS[check.status]:<6}{check.name:<{width}}  "
        for start, text in ((head, check.value), (indent, check.remedy)):
            lines += wrap(text, columns(), initial_indent=start, subsequent_indent=indent)
    n_failed = sum(check.status == "fail" for check in checks)
    end = f"{n_failed} of {len(checks)} checks failed." if n_failed else "Nothing fails here."
    return "\n".join([*lines, "", end])


for _command in (lists.methods, lists.formats, lists.spaces):
    app.command()(_command)
