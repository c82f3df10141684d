"""Export the LoRA of a language model for vLLM and llama.cpp, and check that its outputs are the same.

python examples/serving.py reports/RUN lora
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank takes


def main() -> None:
    """Export, check, and print the command that starts a server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("out", help="folder for the export; must be empty or absent")
    asked = parser.parse_args()

    autopeft = [sys.executable, "-m", "autopeft"]
    export = ["export", asked.run, "--to", "uniform-lora", "--out", asked.out]
    subprocess.run([*autopeft, *export], check=True)
    subprocess.run(
        [*autopeft, "check", asked.out, "--run", asked.run, "--serve-on", "vllm", "--quiet"], check=True
    )
    config = json.loads((Path(asked.out) / "adapter_config.json").read_text(encoding="utf-8"))
    most = min((rank for rank in VLLM_RANKS if rank >= config["r"]), default=config["r"])
    served = f"--enable-lora --lora-modules mine={asked.out} --max-lora-rank {most}"
    print(f"vllm serve BASE_MODEL {served}")


if __name__ == "__main__":
    main()
