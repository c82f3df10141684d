"""Versions and hardware of a run, for its report."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import datasets
import optuna
import peft
import torch
import transformers

from autopeft.model import BaseModel
from autopeft.pipeline.spreading import n_workers
from autopeft.records import VERSION, ExecutionSpec


def environment(base: BaseModel, execution: ExecutionSpec) -> dict[str, str]:
    """Versions of the libraries, the machine, and how the run computed on it, by name."""
    libraries = (torch, transformers, peft, optuna, datasets)
    return {
        "autopeft": VERSION,
        "python": platform.python_version(),
        **{library.__name__: str(library.__version__) for library in libraries},
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpu_count": str(os.cpu_count()),
        "workers": str(n_workers(execution)),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(base.device) if base.device.type == "cuda" else base.device.type,
        "dtype": base.precision.dtype,
        "micro_batch_tokens": str(execution.micro_batch_tokens),
        "checkpointing": execution.checkpointing,
        **({"bitsandbytes": metadata.version("bitsandbytes")} if base.n_bits else {}),
    }
