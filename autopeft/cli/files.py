"""The commands for a finished adapter: `export` writes it, `verify` checks it, `push` uploads it."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.cli import options as opt
from autopeft.cli.environment import heavy_imports
from autopeft.cli.exit_codes import exit_codes
from autopeft.cli.printing import json_text, lines_of
from autopeft.types import counted, rate, shortened

if TYPE_CHECKING:
    from autopeft.commands import Verification

app = typer.Typer()

_MAX_ENTRY = 48  # characters of a pattern that are shown; heuristic


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
def verify(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="Run, adapter, or folder that `export` wrote: native, LoRA or merged."
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Option(
            help="Run, or folder that `train` wrote, to compare with. Default: the one that contains PATH."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Base model instead of the one that is named.")] = None,
    data: Annotated[str | None, typer.Option(help="Dataset instead of the run's.")] = None,
    max_examples: Annotated[int, typer.Option(min=1, help="Rows to compare, at most.")] = 32,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Largest difference of an output. Default: 1e-5; 0.02 for a whole model in 16 bits.", min=0.0
        ),
    ] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Check that an adapter or export has the outputs of the finished plan; exit 1 if not."""
    with exit_codes(as_json=as_json, quiet=quiet):
        with heavy_imports():
            from autopeft import commands

        verification = commands.verify(
            path,
            run=run,
            model_id=model,
            data_source=data,
            max_examples=max_examples,
            tolerance=tolerance,
        )
        print(json_text(verification_json(verification)) if as_json else verification_text(verification))
    if not verification.is_same:
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


def verification_json(verification: Verification) -> dict[str, object]:
    """Return a verification as plain values; an infinite difference becomes None."""
    answer = dataclasses.asdict(verification) | {"is_same": verification.is_same}
    if math.isinf(verification.largest_difference):
        answer["largest_difference"] = None
    return answer


def verification_text(verification: Verification) -> str:
    """Write a verification: what was compared, the modules of each config entry, the answer."""
    subject = [
        f"{verification.path} on {verification.base_model}, read by {verification.reader}",
        f"compared with {verification.reference} on {verification.n_examples} rows of the "
        f"{verification.split} split, in float32",
    ]
    for match in verification.targets:
        entry = shortened(re.sub(r"\\(.)", r"\1", match.entry), _MAX_ENTRY)  # without escapes
        subject.append(f"{entry}: {counted(len(match.modules), 'module')}")
    largest = verification.largest_difference
    shown = rate(largest) if math.isfinite(largest) else "infinite"
    answer = "The outputs are the same" if verification.is_same else "The outputs differ"
    lines = [
        *(f"- {fault}" for fault in verification.faults),
        f"{answer}: largest difference {shown}, tolerance {rate(verification.tolerance)}.",
    ]
    return "\n\n".join("\n".join(lines_of(block)) for block in (subject, lines))
