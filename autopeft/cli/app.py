"""The commands. Heavy libraries are imported inside them, so that `--help` answers at once."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

import autopeft
from autopeft.cli.told import told

app = typer.Typer(
    name="autopeft",
    help="Find what to adapt under a budget: which modules, which PEFT method, which rank, what it is worth.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Typer reads these annotations at run time.
Model = Annotated[str | None, typer.Option(help="Hub id or local directory; default: the demo model.")]
Data = Annotated[
    str | None,
    typer.Option(
        help="CSV, JSONL, Parquet, directory of these, saved dataset or hub id; default: the sample."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]
Config = Annotated[Path | None, typer.Option(help="YAML file with settings, such as a run's run.yaml.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Any setting: topic.field=value. Repeatable.")]
Out = Annotated[Path | None, typer.Option(help="Folder to write to; must be empty or absent.")]
TextColumns = Annotated[
    list[str] | None,
    typer.Option("--text-column", help="Column with the text; twice for a pair of texts."),
]
Quantize = Annotated[
    str | None, typer.Option(help="Base model in few bits: 4bit or 8bit (needs the extra quantize).")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 … Default: a GPU, if any.")]
Dtype = Annotated[
    str | None, typer.Option(help="Numbers to compute in: float32 or bfloat16. Default float32.")
]
LabelColumn = Annotated[str | None, typer.Option(help="Column with the label.")]


def main() -> None:
    """Entry point of the `autopeft` command."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        print(autopeft.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
    pass


@app.command()
def search(
    model: Model = None,
    data: Data = None,
    task: Annotated[str | None, typer.Option(help="Task type, such as text-classification.")] = None,
    budget: Annotated[str | None, typer.Option(help="0.5%, 300k, 1.2M or 113000. Default 0.5%.")] = None,
    methods: Annotated[str | None, typer.Option(help="Only these methods, by comma.")] = None,
    space: Annotated[
        str | None, typer.Option(help="Search space: a name of `spaces`, or a YAML file.")
    ] = None,
    serve_on: Annotated[
        str | None, typer.Option(help="Only what vllm, tgi, llama.cpp (by comma) or any server reads.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Proposals to measure. Default 24 (demo: 14).")] = None,
    max_time: Annotated[str | None, typer.Option(help="Stop in time, such as 90s, 8m or 2h.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Stop at a cost in R, full runs.")] = None,
    sampler: Annotated[str | None, typer.Option(help="tpe, random, qmc or gp. Default tpe.")] = None,
    strategy: Annotated[str | None, typer.Option(help="halving, topk or random. Default halving.")] = None,
    objective: Annotated[str | None, typer.Option(help="score, params or pareto. Default score.")] = None,
    warm_start: Annotated[
        str | None, typer.Option(help="plan.yaml or run to start from, of any model or dataset.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Your own config to beat: plan.yaml, run or adapter_config.json.")
    ] = None,
    max_rank: Annotated[int | None, typer.Option(help="Largest rank of any adapter.")] = None,
    mergeable: Annotated[
        bool | None, typer.Option("--mergeable", help="Only what merges into the base model.")
    ] = None,
    max_step_time: Annotated[
        float | None, typer.Option(help="Slowest training step, relative to plain LoRA.")
    ] = None,
    max_peak_memory: Annotated[
        str | None, typer.Option(help="Training memory beside the weights, such as 2GiB or 500MB.")
    ] = None,
    max_adapter_size: Annotated[
        str | None, typer.Option(help="Size of the adapter's file, such as 5MB.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Length of a full run. Default 3 (demo: 2).")] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="The same in optimizer steps; wins over --epochs.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples per step. Default 32.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens per example at most. Default 128.")] = None,
    confirm: Annotated[
        str | None, typer.Option(help="full, half or none. Default full (demo: half).")
    ] = None,
    confirm_seeds: Annotated[
        int | None, typer.Option(help="Fresh seeds per confirmed plan, at most. Default 5 (demo: 3).")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Difference that does not matter. Default 0.01; of a loss, 1 %.")
    ] = None,
    score: Annotated[
        str | None, typer.Option(help="Sensitivity that orders sites. Default gradient.")
    ] = None,
    count_head: Annotated[bool | None, typer.Option("--count-head", help="Count the task head too.")] = None,
    text_column: TextColumns = None,
    label_column: LabelColumn = None,
    data_config: Annotated[str | None, typer.Option(help="Configuration of a hub dataset.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of the hub model.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides splits, proposals and runs. Default 0.")] = None,
    executor: Annotated[str | None, typer.Option(help="How measurements run. Default serial.")] = None,
    workers: Annotated[int | None, typer.Option(help="Measurements at once, where the executor can.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out, or extend it.")
    ] = False,
    config: Config = None,
    assignments: Sets = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all and say what would be done.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search the best plan under a budget, confirm it, and write it down with its evidence."""
    asked: dict[str, object] = dict(locals())
    with told(quiet=quiet or as_json):
        from autopeft.settings import by_dotted_name, resolve

        flags = by_dotted_name(asked)
        spec, given = resolve(config=config, env=os.environ, flags=flags, assignments=assignments or ())
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
def analyze(
    model: Model = None,
    data: Data = None,
    task: Annotated[str | None, typer.Option(help="Task type.")] = None,
    scores: Annotated[
        str, typer.Option(help="Scores, by comma; the first one makes the suggestion.")
    ] = "gradient,fisher",
    max_examples: Annotated[int | None, typer.Option(help="Examples to look at, at most.")] = None,
    budget: Annotated[str | None, typer.Option(help="Of the suggested plan. Default 0.5%.")] = None,
    text_column: TextColumns = None,
    label_column: LabelColumn = None,
    quantize: Quantize = None,
    seed: Annotated[int | None, typer.Option(help="Decides the sample.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for sensitivity.csv, heat.svg and suggestion.yaml (once a CSV file); "
            "must be empty or absent."
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score every site by how much the loss depends on it, and suggest a plan. Nothing is trained."""
    asked: dict[str, object] = dict(locals())
    with told(quiet=quiet or as_json):
        from autopeft.settings import by_dotted_name, resolve

        del asked["out"]  # of the analysis, not of a run
        spec, given = resolve(config=None, env=os.environ, flags=by_dotted_name(asked), assignments=())
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
    as_json: Json = False,
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
def train(
    plan: Annotated[Path, typer.Option(help="plan.yaml, or a run directory.")],
    model: Annotated[str | None, typer.Option(help="Base model in place of the plan's.")] = None,
    data: Annotated[str | None, typer.Option(help="Dataset in place of the plan's.")] = None,
    seed: Annotated[int | None, typer.Option(help="In place of the plan's.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Annotated[
        str | None, typer.Option(help="4bit, 8bit or none, in place of what the plan says.")
    ] = None,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a plan at full length and save the adapter, head included, as peft does."""
    with told(quiet=quiet or as_json):
        from autopeft import pipeline

        overrides = {"execution.device": device, "execution.dtype": dtype, "model.quantize": quantize}
        measurement, folder = pipeline.train_plan(
            plan, out=out, seed=seed, model_id=model, data_source=data, overrides=overrides
        )
        if as_json:
            _answer({"metric": measurement.metric, "loss": measurement.loss, "out": str(folder)})
        else:
            print(f"metric {measurement.metric:.4f} and loss {measurement.loss:.4f} on the confirm split")
            print(f"adapter {folder}")


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
    as_json: Json = False,
    quiet: Quiet = False,
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
    as_json: Json = False,
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
    as_json: Json = False,
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
def spaces(as_json: Json = False) -> None:
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
