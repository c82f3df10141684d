"""What makes a folder of trained weights ready for the hub: model card, tokenizer, names of the labels."""

from __future__ import annotations

import copy
import json
import logging
import os
from pathlib import Path
from typing import Any, cast

from autopeft import adapters, model, report, train
from autopeft.adapters import compile_plan
from autopeft.errors import ModelError
from autopeft.extension import discover
from autopeft.model.attaching import head_only_config
from autopeft.model.checkpoint_source import own_class
from autopeft.model.checks import pad_with
from autopeft.records import IN_MEMORY, SearchFacts, SearchResult, TrainedPlan
from autopeft.report import CardFacts, hub_id
from autopeft.run.facts import part_words
from autopeft.run.prepare import Prepared
from autopeft.store import cannot_write, reseal, save_processor, write_text

# How transformers reads the outputs of a classifier: one label, several at once, or a number.
_PROBLEM_TYPES = {
    "class": "single_label_classification",
    "classes": "multi_label_classification",
    "number": "regression",
}

_SCHEDULE = train.SCHEDULE.partition(";")[0]  # of the learning rate; the rest is in plan.yaml
TRAINED = "trained.json"  # what the card of an adapter of `train` says, beside it; not for the hub

log = logging.getLogger(__name__)


def write_loading_files(folder: Path, prepared: Prepared) -> None:
    """Name the base model in an adapter, and write its tokenizer, and its config with the labels of the task.

    A reader passes that config to `from_pretrained` of the base model, whose outputs then have names, and
    which `pipeline` of transformers turns into scores as the task means them. A language model has no labels.
    """
    base, labels = prepared.base, prepared.data.label_names
    spec = prepared.spec.model
    if spec.id != IN_MEMORY:
        name_base(folder, spec.id or model.DEMO_HUB_ID, revision=spec.revision)
    if hasattr(base.tokenizer, "save_pretrained"):
        try:
            save_processor(base.tokenizer, folder)
        except OSError as error:
            raise cannot_write(folder, error) from error
    if not labels:
        return
    module = cast(Any, base.module)
    config = model.config_of(spec) if spec.id != IN_MEMORY else copy.deepcopy(module.config)
    config.architectures = [type(module).__name__]
    config.num_labels = len(labels)  # a field of its own in PVT's config, elsewhere the number of names
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = _PROBLEM_TYPES.get(prepared.data.target.kind)
    if getattr(module.config, "pad_token_id", None) is not None:  # a model of images has none
        pad_with(config, module.config.pad_token_id)
    config.save_pretrained(str(folder))


def name_base(folder: Path, name: str, *, revision: str | None) -> None:
    """Write which base model the adapters in a folder are for, and its commit; renews their checksums.

    `peft` guesses it from the loaded model: of a GGUF file it names the folder, and of no model the commit.
    """
    configs = sorted(folder.rglob("adapter_config.json"))
    for path in configs:
        content = json.loads(path.read_bytes()) | {"base_model_name_or_path": name, "revision": revision}
        write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
    reseal(folder, configs)


def write_card(
    folder: Path, result: SearchResult, *, seed: int, repo: str | None = None, base_model: str | None = None
) -> None:
    """Write the model card of weights of a seed.

    `repo` names the repository on the hub that the folder is pushed to, `base_model` the base model there;
    None is what the run knows.
    """
    setting, words = result.setting, part_words(result)
    stack = compile_plan(result.best, discover("autopeft.methods"))
    written = stack.configs or (head_only_config(),)
    facts = CardFacts(
        base_model=base_model or hub_base(setting),
        dataset=_not_here(result.spec.data.source),
        peft_types=tuple(dict.fromkeys(adapters.type_name(config).lower() for config in written)),
        seed=seed,
        folder=repo or report.BEST_WEIGHTS,
        own_class=_own_class(result, words.auto_class),
        schedule=_SCHEDULE,
    )
    write_text(folder / "README.md", report.model_card(result, facts, words))


def write_trained_card(folder: Path, trained: TrainedPlan, *, at: str, base_model: str | None = None) -> None:
    """Write the model card of an adapter that `train` wrote; it lies `at` a folder, or a name on the hub."""
    words = part_words(trained)
    configs = compile_plan(trained.best, discover("autopeft.methods")).configs or (head_only_config(),)
    facts = CardFacts(
        base_model=base_model or hub_base(trained.setting),
        dataset=_not_here(trained.spec.data.source),
        peft_types=tuple(dict.fromkeys(adapters.type_name(config).lower() for config in configs)),
        seed=trained.measurement.fidelity.seed,
        folder=at,
        own_class=_own_class(trained, words.auto_class),
        schedule=_SCHEDULE,
    )
    write_text(folder / "README.md", report.trained_card(trained, facts, words))


def _own_class(result: SearchResult | TrainedPlan, auto_class: str) -> str:
    """The class that the base model's config names if the adapter does not fit it; empty if it does."""
    spec = result.spec.model
    try:
        return "" if spec.id == IN_MEMORY else own_class(model.config_of(spec), auto_class) or ""
    except ModelError as error:  # the base model may lie there no more when a run is pushed
        log.debug("The card names no class of the base model: %s", error)
        return ""


def hub_base(setting: SearchFacts) -> str | None:
    """The base model's id on the hub; None for a model that lies in a folder or was in memory alone."""
    if setting.base_model == model.DEMO_NAME:
        return model.DEMO_HUB_ID
    return _not_here(setting.base_model_source)


def _not_here(name: str | None) -> str | None:
    """An id on the hub; None where a file or folder of that name is here."""
    return None if name is None or os.path.exists(name) else hub_id(name)  # noqa: PTH110 - see model.checkpoint_source
