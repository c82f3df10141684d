"""Write the model cards of finished adapters."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from autopeft import adapters, model, report
from autopeft.errors import ModelError
from autopeft.model.attaching import head_only_config
from autopeft.model.checkpoint_source import own_class
from autopeft.plugins import discover
from autopeft.report import CardFacts, PartWords, hub_id
from autopeft.report.part_words import part_words
from autopeft.store import read_record, write_text
from autopeft.types import IN_MEMORY, SearchFacts, SearchResult, TrainedPlan

TRAINED = "trained.json"  # next to an adapter of `train`: what its card needs; not for the hub

log = logging.getLogger(__name__)


def write_card(
    folder: Path,
    result: SearchResult,
    *,
    seed: int,
    repo: str = report.BEST_WEIGHTS,
    base_model: str | None = None,
) -> None:
    """Write the model card of the weights of a seed into their folder.

    The card loads the adapter from `repo`, a repository of the hub or a folder of the run. `base_model` is by
    default the hub id of the run's model, if it has one.
    """
    words = part_words(result)
    facts = _card_facts(result, words, seed=seed, folder=repo, base_model=base_model)
    write_text(folder / "README.md", report.model_card(result, facts, words))


def write_trained_card(folder: Path, trained: TrainedPlan, *, at: str, base_model: str | None = None) -> None:
    """Write the model card of an adapter that `train` wrote; the card loads it from `at`, a folder or id."""
    words, seed = part_words(trained), trained.measurement.fidelity.seed
    facts = _card_facts(trained, words, seed=seed, folder=at, base_model=base_model)
    write_text(folder / "README.md", report.trained_card(trained, facts, words))


def read_trained(folder: Path) -> TrainedPlan | None:
    """Read the record that `train` wrote into a folder; None without one, RunDirError for a damaged one."""
    try:
        return read_record(folder / TRAINED, TrainedPlan, remedy="train the plan again")
    except FileNotFoundError:
        return None


def _card_facts(
    result: SearchResult | TrainedPlan, words: PartWords, *, seed: int, folder: str, base_model: str | None
) -> CardFacts:
    configs = adapters.compile_plan(result.best, discover("autopeft.methods")).configs
    spec, loading_class = result.spec.model, ""
    if spec.id != IN_MEMORY:
        try:
            loading_class = own_class(model.config_of(spec), words.auto_class) or ""
        except ModelError as error:  # the base model may have been moved before its run is pushed
            log.debug("The card names no class of the base model: %s", error)
    return CardFacts(
        base_model=base_model or hub_base(result.setting),
        dataset=_hub_id_unless_here((result.spec.data.source or "").partition(":")[0] or None),
        peft_types=tuple(
            dict.fromkeys(adapters.type_name(config).lower() for config in configs or (head_only_config(),))
        ),
        seed=seed,
        folder=folder,
        own_class=loading_class,
    )


def hub_base(setting: SearchFacts) -> str | None:
    """Return the base model's id on the hub; None if it is in a folder or was only in memory."""
    return _hub_id_unless_here(setting.base_model_source)


def _hub_id_unless_here(name: str | None) -> str | None:
    """Return a name as an id on the hub; None if it is not an id, or if a file or folder has this name."""
    return None if name is None or os.path.exists(name) else hub_id(name)  # noqa: PTH110 - see model.checkpoint_source
