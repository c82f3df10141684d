"""The commands for a finished adapter: `export` writes it, `check` examines it, `push` uploads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.cli import options as opt
from autopeft.cli.environment import heavy_imports
from autopeft.cli.exit_codes import exit_codes
from autopeft.cli.printing import blocks_text, columns, json_text, lines_of, table
from autopeft.types import rate

if TYPE_CHECKING:
    from autopeft.commands import Check

app = typer.Typer()


@app.command()
def export(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="Run, or folder that peft, `train` or a run's best/weights wrote."
        ),
    ],
    to: Annotated[str, typer.Option(help="Name of the format; `autopeft info formats` lists them.")],
    out: Annotated[Path, typer.Option(help="Folder to write to; must be empty or absent.")],
    model: Annotated[
        str | None, typer.Option(help="Base model instead of the one that the run or adapter names.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Number format of a whole model: float32, bfloat16 or float16. Default: its checkpoint's."
        ),
    ] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Write a plan or a trained adapter in a format that other tools read."""
    with exit_codes(as_json=as_json, quiet=quiet):
        with heavy_imports():
            from autopeft import commands

        written = commands.export(path, to, out, model_id=model, dtype=dtype)
        if as_json:
            print(json_text(dataclasses.asdict(written)))
            return
        print(f"{written.format} {written.out}: {', '.join(written.files)}")
        for note in written.notes:
            print(f"- {note}")


@app.command()
def check(
    adapter: Annotated[
        str,
        typer.Argument(
            metavar="ADAPTER",
            help="Folder of an adapter, its adapter_config.json, hub id, run, or merged model with --run.",
        ),
    ],
    model: Annotated[str | None, typer.Option(help="Base model instead of the one that is named.")] = None,
    serve_on: Annotated[
        list[str] | None,
        typer.Option(help="Server that must read it right: vllm, sglang or llama.cpp. Repeatable."),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="OpenAI-compatible endpoint that serves base model and adapter."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="Run, or folder that `train` wrote, whose outputs it must give. Default: the one around it."
        ),
    ] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Check that an adapter does something, here and on servers; exit 1 if it is broken."""
    with exit_codes(as_json=as_json, quiet=quiet):
        with heavy_imports():
            from autopeft import commands

        found = commands.check(adapter, model_id=model, serve_on=serve_on or (), server=server, run=run)
        print(json_text(check_json(found)) if as_json else check_text(found))
    if "broken" in (found.verdict, *(found.verdict_on(name) for name in serve_on or ())):
        raise typer.Exit(1)


@app.command()
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or folder that `train` wrote.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Repository on the hub: user/name.")],
    private: Annotated[bool, typer.Option("--private", help="Create the repository as private.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Upload to an existing repository.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files and upload nothing.")] = False,
    base_model: Annotated[
        str | None, typer.Option(help="Id of the base model on the hub, if the run loaded it from a folder.")
    ] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Upload the adapter of a run or of `train` to the hub, with model card and tokenizer."""
    with exit_codes(as_json=as_json, quiet=quiet):
        with heavy_imports():
            from autopeft import commands
            from autopeft.report.formatting import memory

        pushed = commands.push(
            run, repo, private=private, overwrite=overwrite, dry_run=dry_run, base_model=base_model
        )
        if as_json:
            print(json_text(dataclasses.asdict(pushed)))
            return
        print(f"{pushed.repo}: adapter of {pushed.base_model}")
        for name, n_bytes in pushed.files.items():
            print(f"{memory(n_bytes):>9}  {name}")
        print(f"pushed to {pushed.url}" if pushed.url else "Nothing was uploaded: this is a dry run.")


def check_json(found: Check) -> dict[str, object]:
    """Return a check as plain values, with its verdicts."""
    answer = dataclasses.asdict(found) | {"verdict": found.verdict}
    answer["servers"] = {
        name: {"verdict": found.verdict_on(name), "faults": faults}
        for name, faults in answer["servers"].items()
    }
    for name, part in (("outputs", found.outputs), ("answers", found.answers)):
        if part is not None:
            answer[name] |= {"is_same": part.is_same}
    return answer


def check_text(found: Check) -> str:
    """Write a check: the adapter, its coverage, what is wrong, servers, outputs, and the verdict."""
    facts = [found.topology, f"rank {found.max_rank}" if found.max_rank else ""]
    base = f" on {found.base_model}" if found.topology else ""
    title = ", ".join([f"{found.path}: {found.method}{base}", *filter(None, facts)])
    rows = [
        (each.component, f"{len(each.adapted):,}", f"{each.n_modules:,}", f"{each.n_params:,}")
        for each in found.coverage
    ]
    servers = [
        (name, found.verdict_on(name), "\n".join(f"{each.text} ({each.source})" for each in faults) or "–")
        for name, faults in found.servers.items()
    ]
    is_broken = any(each.severity == "broken" for each in found.findings)
    headers = ("server", "verdict", "what it does other than peft")
    return blocks_text(
        lines_of([title]),
        table(("component", "adapted", "of modules", "parameters"), rows) if rows else [],
        lines_of(f"{each.severity}: {each.text}" for each in found.findings),
        [] if is_broken or not servers else table(headers, servers, n_texts=3, width=columns()),
        lines_of(_comparisons(found)),
        lines_of([f"verdict: {found.verdict}"]),
    )


def _comparisons(found: Check) -> Iterator[str]:
    """Write sentences on the outputs that were compared."""
    if outputs := found.outputs:
        largest = outputs.largest_difference
        yield (
            f"The outputs {'are those' if outputs.is_same else 'differ from those'} of {outputs.reference}: "
            f"largest difference {'infinite' if largest is None else rate(largest)}, "
            f"tolerance {rate(outputs.tolerance)}."
        )
    if answers := found.answers:
        if answers.has_effect:
            yield (
                f"{answers.adapter} on {answers.url} moves the log-probabilities of {answers.base} by up to "
                f"{rate(answers.change)} nats."
            )
        else:
            yield f"{answers.adapter} has no effect on {answers.url}: it answers as {answers.base} does."
        if answers.difference is not None:
            agrees = "agrees with" if answers.is_same else "differs from"
            yield f"It {agrees} peft on this machine: largest difference {rate(answers.difference)} nats."
