"""Run the notebooks in `examples/` and write them back with their outputs.

    python tools/docs/run_notebooks.py [quickstart] [reading_a_result] --folder FOLDER

The notebooks run in `--folder`. If it has the model `HuggingFaceTB/SmolLM2-135M-Instruct` and
`restaurants.csv`, nothing is downloaded. Timings, progress bars and the path of the folder are not kept.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("quickstart", "reading_a_result")
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found,ignore::FutureWarning",
    "TQDM_DISABLE": "1",
}


def run(name: str, folder: Path) -> None:
    """Execute a notebook in a folder, and replace the one in `examples/`.

    Raises:
        CellExecutionError: A cell failed; the notebook in `examples/` is unchanged.
    """
    path = EXAMPLES / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    metadata = dict(notebook.metadata)
    client = NotebookClient(
        notebook,
        timeout=3600,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    notebook.metadata = nbformat.from_dict(metadata)  # without the versions of this machine
    path.write_text(nbformat.writes(notebook).replace(f"{folder}/", "") + "\n", encoding="utf-8")


def main() -> None:
    """Run the notebooks that the command line names."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    unknown = set(given.names) - set(NAMES)
    if unknown:
        parser.error(f"there is no notebook {min(unknown)!r}; known: {', '.join(NAMES)}")
    os.environ.update(QUIET)
    for name in given.names or NAMES:
        run(name, given.folder.resolve())


if __name__ == "__main__":
    main()
