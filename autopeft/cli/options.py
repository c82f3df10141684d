"""The flags that several commands share, and those of `search`, in the groups that its help shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_DATA, _FULL, _RACE = "Data", "A full run", "The race"
_LIMITS, _PROOF, _MACHINE, _RUN = "Limits beside the budget", "Proof", "Machine", "The run"


def _option(panel: str | None, text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel)


Model = Annotated[str | None, _option(None, "Hub id or local directory; default: the demo model.")]
Data = Annotated[
    str | None,
    _option(None, "CSV, JSONL, Parquet, directory of these, saved dataset or hub id; default: the sample."),
]
Task = Annotated[str | None, _option(None, "Task type, such as text-classification.")]
Metric = Annotated[str | None, _option(None, "Of the task's. Default: by what is learned.")]
Budget = Annotated[str | None, _option(None, "0.5%, 300k, 1.2M or 113000. Default 0.5%.")]
CountHead = Annotated[bool | None, _option(None, "Count the task head too.", "--count-head")]
Methods = Annotated[str | None, _option(None, "Only these methods, by comma.")]
Baseline = Annotated[
    str | None, _option(None, "Your own config to beat: plan.yaml, run or adapter_config.json.")
]
Forgetting = Annotated[
    str | None, _option(None, "Plain text, as --data has it: tell how far adaptation forgets such text.")
]

TextColumns = Annotated[
    list[str] | None, _option(_DATA, "Column with the text; twice for a pair of texts.", "--text-column")
]
LabelColumn = Annotated[str | None, _option(_DATA, "Column with the label.")]
GroupColumn = Annotated[str | None, _option(_DATA, "Rows with the same value here stay in one split.")]
TimeColumn = Annotated[str | None, _option(_DATA, "What is cut out of train is its latest rows by this.")]
MaxExamples = Annotated[int | None, _option(_DATA, "Rows of train and search together, at most.")]
Streaming = Annotated[bool | None, _option(_DATA, "Read only so many rows of a hub dataset.", "--streaming")]
DataConfig = Annotated[str | None, _option(_DATA, "Configuration of a hub dataset.")]

Epochs = Annotated[float | None, _option(_FULL, "Its length. Default 3 (demo: 2).")]
MaxSteps = Annotated[int | None, _option(_FULL, "The same in optimizer steps; wins over --epochs.")]
BatchSize = Annotated[int | None, _option(_FULL, "Examples per step. Default 32.")]
MaxLength = Annotated[int | None, _option(_FULL, "Tokens per example at most. Default 128.")]

Space = Annotated[str | None, _option(_RACE, "Search space: a name of `spaces`, or a YAML file.")]
Trials = Annotated[int | None, _option(_RACE, "Proposals to measure. Default 24 (demo: 12).")]
MaxTime = Annotated[str | None, _option(_RACE, "Stop in time, such as 90s, 8m or 2h.")]
MaxCost = Annotated[float | None, _option(_RACE, "Stop at a cost in R, full runs.")]
Patience = Annotated[
    int | None, _option(_RACE, "Stop after so many sampled proposals that bring nothing better.")
]
Sampler = Annotated[str | None, _option(_RACE, "tpe, random, qmc or gp. Default tpe.")]
Strategy = Annotated[str | None, _option(_RACE, "halving, topk or random. Default halving.")]
Objective = Annotated[str | None, _option(_RACE, "score, params or pareto. Default score.")]
WarmStart = Annotated[str | None, _option(_RACE, "plan.yaml or run to start from, of any model or dataset.")]
Score = Annotated[str | None, _option(_RACE, "Sensitivity that orders sites. Default gradient.")]
Seed = Annotated[int | None, _option(_RACE, "Decides splits, proposals and runs. Default 0.")]

ServeOn = Annotated[
    str | None, _option(_LIMITS, "Only what vllm, tgi, llama.cpp (by comma) or any server reads.")
]
Mergeable = Annotated[bool | None, _option(_LIMITS, "Only what merges into the base model.", "--mergeable")]
MaxRank = Annotated[int | None, _option(_LIMITS, "Largest rank of any adapter.")]
MaxStepTime = Annotated[float | None, _option(_LIMITS, "Slowest training step, relative to plain LoRA.")]
MaxPeakMemory = Annotated[
    str | None, _option(_LIMITS, "Training memory beside the weights, such as 2GiB or 500MB.")
]
MaxAdapterSize = Annotated[str | None, _option(_LIMITS, "Size of the adapter's file, such as 5MB.")]

Confirm = Annotated[str | None, _option(_PROOF, "full, half or none. Default full (demo: half).")]
ConfirmSeeds = Annotated[
    int | None, _option(_PROOF, "Fresh seeds per confirmed plan, at most. Default 5 (demo: 3).")
]
Margin = Annotated[
    float | None, _option(_PROOF, "Difference that does not matter. Default 0.01; of a loss, 1 %.")
]

Executor = Annotated[str | None, _option(_MACHINE, "How measurements run. Default serial.")]
Workers = Annotated[int | None, _option(_MACHINE, "Measurements at once, where the executor can.")]
Device = Annotated[str | None, _option(_MACHINE, "cpu, cuda, cuda:1 … Default: a GPU, if any.")]
Dtype = Annotated[
    str | None, _option(_MACHINE, "Numbers to compute in: float32 or bfloat16. Default float32.")
]
Quantize = Annotated[
    str | None, _option(_MACHINE, "Base model in few bits: 4bit or 8bit (needs the extra quantize).")
]
Revision = Annotated[str | None, _option(_MACHINE, "Revision of the hub model.")]

Out = Annotated[Path | None, _option(_RUN, "Folder to write to; must be empty or absent.")]
Resume = Annotated[bool, _option(_RUN, "Continue the run in --out, or extend it.", "--resume")]
Config = Annotated[Path | None, _option(_RUN, "YAML file with settings, such as a run's run.yaml.")]
Sets = Annotated[list[str] | None, _option(_RUN, "Any setting: topic.field=value. Repeatable.", "--set")]
DryRun = Annotated[bool, _option(_RUN, "Check all and say what would be done.", "--dry-run")]
Json = Annotated[bool, _option(_RUN, "One JSON object on stdout and nothing else.", "--json")]
Quiet = Annotated[bool, _option(_RUN, "No progress and no notes.", "--quiet", "-q")]
