"""The commands. Heavy libraries are imported inside them, so that `--help` is instant."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from autopeft.cli import facts, files, info
from autopeft.cli import options as opt
from autopeft.cli.environment import expand_segments, fit_threads, heavy_imports
from autopeft.cli.exit_codes import PlainErrors, exit_codes
from autopeft.cli.printing import json_text
from autopeft.errors import SpecError
from autopeft.store import parse_duration, parse_yaml, resolve_settings, write_text
from autopeft.types import VERSION, SearchResult

# One paragraph for each line, since rich joins lines.
_EXAMPLES = """Examples:

autopeft search  (the demo: a small model, sample data)

autopeft search --model ID --data train.csv --budget 300k

autopeft search --model ID --data DIR --max-time 2h --out first

autopeft search --resume --out first  (resume a stopped run)"""

_TUNE_EXAMPLES = """Example:

autopeft tune --model ID --budget r16 --full-steps 1250 --out study -- python train.py {trial} {result}

The same command resumes a stopped study; run twice at the same time, it shares the work."""

_CLIENT = Path(__file__).parents[1] / "client.py"
_CLIENT_BEGINNING = b'"""Read a trial of `autopeft tune`'

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
    expand_segments()
    fit_threads()
    os.environ["MPLBACKEND"] = "Agg"  # the backend of a notebook, which the variable may name, may be missing
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


@app.command("search", epilog=_EXAMPLES)
@opt.takes_settings(opt.SEARCH_FLAGS)
def search_command(
    *,
    settings: Mapping[str, Any],
    resume: opt.Resume = False,
    config: opt.Config = None,
    dry_run: opt.DryRun = False,
    yes: opt.Yes = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
    quiet: opt.Quiet = False,
) -> None:
    """Search for the best plan under a budget, train it in full, and report how it compares with LoRA."""
    with exit_codes(as_json=as_json, quiet=quiet, notes=verbose or dry_run):
        spec = resolve_settings(config=config, env=os.environ, flags=settings)
        if not (quiet or as_json):  # imports take seconds
            named = f"{spec.model.id or 'the demo model'} and {spec.data.source or 'the demo data'}"
            print(f"Loading {'the run' if resume else named} …", file=sys.stderr, flush=True)
        with heavy_imports():
            from autopeft import commands
            from autopeft.cli.results import confirm_long_search, preview_text
            from autopeft.report.progress import progress_display

        if dry_run:
            preview = commands.preview(spec, resume=resume)
            print(json_text(dataclasses.asdict(preview)) if as_json else preview_text(preview))
            return
        with contextlib.closing(progress_display(quiet=quiet or as_json)) as progress:
            result, path = commands.run_search(
                spec,
                resume=resume,
                progress=progress,
                confirm=functools.partial(confirm_long_search, yes=yes),
            )
        _print_run(result, path, as_json=as_json)


def _print_run(result: SearchResult, path: Path, *, as_json: bool) -> None:
    from autopeft.cli.results import result_text
    from autopeft.report import result_json

    print(json_text({**result_json(result), "run": str(path)}) if as_json else result_text(result, path))


def _write_client(path: Path | None) -> None:
    """Copy the client of `tune` to a path; refuse to replace any other file."""
    if path is None:
        return
    with exit_codes():
        text = _CLIENT.read_text(encoding="utf-8")
        if path.exists() and not path.read_bytes().startswith(_CLIENT_BEGINNING):
            raise SpecError(f"{path} exists and is not a copy of the client; pass another path to --client.")
        write_text(path, text)
    print(f"{path}\n\nIn your script: from {path.stem} import Score, Trial")
    raise typer.Exit


@app.command(epilog=_TUNE_EXAMPLES)
@opt.takes_settings(
    dict.fromkeys(
        ("model", "budget", "effort", "methods", "trials", "seeds", "space", "margin", "seed", "revision")
    )
    | {"out": "Folder to write to; an existing study in it is resumed."}
)
def tune(
    words: Annotated[list[str], typer.Argument(help="The command of a trial, after --", metavar="COMMAND")],
    *,
    client: Annotated[
        Path | None,
        typer.Option(
            callback=_write_client,
            is_eager=True,
            help="Write the file that a script in another environment imports, and exit.",
        ),
    ] = None,
    settings: Mapping[str, Any],
    full_steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of a full run.")],
    metric: Annotated[str, typer.Option(help="Name of the score, such as accuracy.")] = "score",
    lower_is_better: Annotated[
        bool, typer.Option("--lower-is-better", help="A lower score is better.")
    ] = False,
    test: Annotated[bool, typer.Option("--test", help="Evaluate once on a test split, at the end.")] = False,
    auto_class: Annotated[
        str | None, typer.Option(help="Class that the trainer loads, such as AutoModelForCausalLM.")
    ] = None,
    trial_time: Annotated[
        str | None, typer.Option(help="Time after which a trial is stopped, such as 2h.")
    ] = None,
    choices: Annotated[
        list[str] | None,
        typer.Option("--search", help="Choices of your trainer, such as 'packing: \\[true, false]'."),
    ] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Search with your own trainer: a command that reads {trial}, trains, and writes {result}."""
    with exit_codes(as_json=as_json, quiet=quiet):
        max_seconds = None if trial_time is None else parse_duration(trial_time)
        resolve_settings(flags=settings)  # raises before torch is loaded
        with heavy_imports():
            from autopeft import commands
            from autopeft.trials.trial_folders import command

        train = command(words, max_seconds=max_seconds)
        study = commands.Study(
            full_steps=full_steps,
            search=parse_yaml("\n".join(choices or ["{}"]), source="--search"),
            metric=metric,
            lower_is_better=lower_is_better,
            test=test,
            auto_class=auto_class,
            **settings,
        )
        # A trial is stopped after `max_seconds`; a process that has one for twice that time hangs.
        deadline = math.inf if max_seconds is None else 2 * max_seconds
        result = commands.tune(train, study, deadline_seconds=deadline)
        _print_run(result, study.path, as_json=as_json)


@app.command()
@opt.takes_settings(
    dict.fromkeys(("model", "data", "task", "text_column", "label_column", "quantize"))
    | {
        "seed": "Seed of the sample of examples. Default 0.",
        "out": "Folder for sensitivity.csv; must be empty or absent.",
    }
)
def analyze(
    *,
    settings: Mapping[str, Any],
    scores: Annotated[str, typer.Option(help="Scores, separated by commas.")] = "gradient,fisher",
    max_examples: Annotated[int | None, typer.Option(min=1, help="Examples to score, at most.")] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Score every target module by how much the loss depends on it, without training."""
    with exit_codes(as_json=as_json, quiet=quiet):
        spec = resolve_settings(env=os.environ, flags=settings)
        with heavy_imports():
            from autopeft import commands
            from autopeft.cli.results import analysis_json, analysis_text

        names = [name.strip() for name in scores.split(",")]
        analysis = commands.analyze(spec, scores=names, max_examples=max_examples)
        print(json_text(analysis_json(analysis)) if as_json else analysis_text(analysis))


@app.command()
@opt.takes_settings(
    {
        "model": "Base model instead of the plan's.",
        "data": "Dataset instead of the plan's, with the columns that the plan names.",
        "seed": "Seed instead of the plan's.",
        "device": "Torch device: cpu, cuda, cuda:1 or balanced. Default: a GPU, if there is one.",
        "dtype": None,
        "attn": None,
        "memory": None,
        "micro_batch_tokens": None,
        "checkpointing": None,
        "metric": "The metric of the plan; required to allow a function of your own to run.",
        "quantize": "4bit, 8bit or none, instead of what the plan says.",
        "epochs": "Epochs instead of the plan's length, such as 3 after a short search.",
        "max_steps": "Steps instead of the plan's length.",
        "report_to": "Experiment trackers to log the training to, separated by commas.",
        "out": None,
    }
)
def train(
    *,
    plan: Annotated[Path, typer.Option(help="plan.yaml, or a run directory.")],
    settings: Mapping[str, Any],
    resume: Annotated[bool, typer.Option("--resume", help="Resume a training that was stopped.")] = False,
    all_rows: Annotated[
        bool, typer.Option("--all-rows", help="Also train on the rows of search and confirm.")
    ] = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train a plan in full and save the adapter with its head, as peft does."""
    with exit_codes(as_json=as_json, quiet=quiet):
        spec = resolve_settings(env=os.environ, flags=settings)
        with heavy_imports():
            from autopeft import commands
            from autopeft.report.formatting import metric as metric_text

        trained = commands.train_plan(
            plan,
            spec,
            out=None if spec.output.out is None else Path(spec.output.out),
            seed=spec.search.seed if "search.seed" in spec.explicit else None,
            resume=resume,
            all_rows=all_rows,
        )
        score, loss = trained.measurement.metric, trained.measurement.loss
        if as_json:
            answer = {"metric": score, "metric_name": trained.metric, "loss": loss}
            print(json_text({**answer, "out": str(trained.folder)}))
            return
        if loss is None:
            print("no score: all rows were trained on, and there is no test split")
        else:
            metric = f"{trained.metric} {metric_text(score, trained.is_share)} and "
            metric = "" if trained.metric == "loss" else metric
            print(f"{metric}loss {loss:.4f} on the {trained.measurement.fidelity.split} split")
        print(f"adapter {trained.folder}")


@app.command("try")
def try_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or folder that `train` wrote.")],
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Texts or paths of images; the texts of a pair in order."),
    ],
    as_json: opt.Json = False,
) -> None:
    """Run the finished adapter: print a label, number, tags or text for each input."""
    with exit_codes(as_json=as_json, quiet=True):
        if not as_json:
            print(f"Loading the adapter of {run} …", file=sys.stderr, flush=True)
        with heavy_imports():
            from autopeft import commands
            from autopeft.cli.results import reply_text

        replies = commands.try_run(run, inputs)
        if as_json:
            print(json_text({"replies": [dataclasses.asdict(reply) for reply in replies]}))
        else:
            print("\n".join(reply_text(reply, is_alone=len(replies) == 1) for reply in replies))


@app.command()
def report(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    as_json: opt.Json = False,
) -> None:
    """Render the report of a finished run again."""
    with exit_codes(as_json=as_json):
        with heavy_imports():
            from autopeft.commands.report import render

        _print_run(render(path), path, as_json=as_json)


app.add_typer(facts.app)
app.add_typer(files.app)
app.add_typer(info.app)
