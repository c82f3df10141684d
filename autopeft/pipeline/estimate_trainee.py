"""What a path or a word on the command line names: a plan, configs, a method, or the whole model."""

from __future__ import annotations

from pathlib import Path

from autopeft import adapters, estimate
from autopeft.errors import SpecError
from autopeft.estimate import Trainee
from autopeft.extension import discover
from autopeft.records import ModelSpec
from autopeft.store import read_plan


def read_trainee(trained: str, *, model_id: str | None, revision: str | None) -> tuple[Trainee, ModelSpec]:
    """What a path or a word names, and the base model, which a plan or a config may name.

    Raises SpecError for a file that cannot be read, an unknown word, or no base model.
    """
    path, spec = Path(trained), ModelSpec(id=model_id, revision=revision)
    if not path.exists():
        trainee = estimate.by_name(trained, discover("autopeft.methods"))
        if model_id is None:
            raise SpecError(
                f"{trained} says nothing of a base model; pass --model with its id or config.json."
            )
        return trainee, spec
    if adapters.is_adapter(path):
        files = tuple(adapters.read_configs(path))
        configs = [file.config for file in files]
        named = spec if model_id else adapters.base_model_of(configs, path=path)
        label = " and ".join(dict.fromkeys(map(adapters.type_name, configs)))
        return Trainee(label=f"{label} of {path}", files=files, path=path), named
    document = read_plan(path)
    label = " and ".join(dict.fromkeys(adapter.method for adapter in document.plan.adapters)) or "the head"
    named = (
        document.model if model_id is None else spec.model_copy(update={"quantize": document.model.quantize})
    )
    return Trainee(label=f"{label} of {path}", plan=document.plan, task=document.task.name), named
