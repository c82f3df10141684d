"""Export the adapter of a run for vLLM and llama.cpp, and check that its outputs are those of the run.

python examples/serving.py reports/RUN lora
"""

from __future__ import annotations

import argparse
import subprocess
import sys


def main() -> None:
    """Export, verify, and say how to start a server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("out", help="folder for the export; must be empty or absent")
    asked = parser.parse_args()

    autopeft = [sys.executable, "-m", "autopeft"]
    export = ["export", "--run", asked.run, "--to", "uniform-lora", "--out", asked.out]
    subprocess.run([*autopeft, *export], check=True)
    subprocess.run([*autopeft, "verify", asked.out, "--run", asked.run, "--quiet"], check=True)
    print(f"vllm serve BASE_MODEL --enable-lora --lora-modules mine={asked.out}")


if __name__ == "__main__":
    main()
