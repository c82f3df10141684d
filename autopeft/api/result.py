"""The result of a search in Python: it loads, runs and pushes the adapter."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from peft import PeftConfig
from torch import nn

from autopeft import commands, report
from autopeft.commands import Pushed, Reply, Trained
from autopeft.errors import SpecError
from autopeft.report.part_words import part_words
from autopeft.setup.resources import one_at_a_time
from autopeft.store import read_plan
from autopeft.types import Plan, SearchResult

if TYPE_CHECKING:
    import pandas as pd
    from peft import PeftModel


_Words: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True, kw_only=True)
class SavedPlan:
    """A plan of a run in its file, to train in full as the run would."""

    path: Path
    plan: Plan

    @one_at_a_time()
    def train(
        self, out: str | Path | None = None, *, seed: int | None = None, all_rows: bool = False
    ) -> Trained:
        """Train the plan on the run's model and data, as `autopeft train` does.

        The adapter goes to `out` or a new folder of `reports`. With `all_rows`, the rows of search and
        confirm are trained on as well.
        """
        with training_modes():
            folder = None if out is None else Path(out)
            return commands.train_plan(self.path, out=folder, seed=seed, all_rows=all_rows)


@dataclass(frozen=True, kw_only=True, repr=False)
class Result(SearchResult):
    """A finished search: a `SearchResult` that knows its folder."""

    @property
    def path(self) -> Path:
        """The folder of the run, as an absolute path."""
        return Path(str(self.spec.output.out))

    @property
    def config(self) -> PeftConfig:
        """The `peft` config of the best plan, for `get_peft_model`; train it at `learning_rate`.

        Raises:
            SpecError: The plan mixes methods, each with its own config; `load` attaches them all.
        """
        folder = self.path / "best" / "adapters"
        if not (folder / "adapter_config.json").is_file():
            raise SpecError(
                f"{folder} does not hold one config: the best plan mixes methods, or trains the task head "
                "alone. Use result.load() instead."
            )
        return PeftConfig.from_pretrained(str(folder))

    @property
    def learning_rate(self) -> float:
        """Peak learning rate of AdamW for the adapter of the best plan."""
        return self.best.learning_rate

    def leaderboard(self) -> pd.DataFrame:
        """List all plans: first those that were trained in full, best metric first.

        The metric of the other plans is from a short run on the split that guided the search, not a result.
        """
        import pandas as pd

        frame: pd.DataFrame = pd.DataFrame(report.leaderboard(self, part_words(self).labels))
        return frame

    @property
    def plans(self) -> dict[str, SavedPlan]:
        """The plans that were trained in full, by role: best, baseline, challenger, head, 1-of-5."""
        files = sorted((self.path / "plans").glob("*.yaml"))
        return {file.stem: SavedPlan(path=file, plan=read_plan(file).plan) for file in files}

    @one_at_a_time()
    def predict(self, inputs: _Words | Iterable[_Words | Sequence[_Words]]) -> tuple[Reply, ...]:
        """Run the finished adapter; each reply has a label with probabilities, tags, a number or a text.

        `inputs` are texts or paths of images, such as a column of a data frame; a tuple for a pair of texts.
        """
        if isinstance(inputs, Mapping) or getattr(inputs, "ndim", 1) > 1:
            raise SpecError(
                f"predict takes texts, paths of images, or tuples of these, not a {type(inputs).__name__}; "
                "pass a column such as frame['text'], or zip(frame['a'], frame['b']) for pairs."
            )
        rows = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
        words = [tuple(row) if isinstance(row, (list, tuple)) else (row,) for row in rows]
        return commands.predict(self.path, [tuple(map(os.fspath, row)) for row in words])

    @one_at_a_time()
    def load(self, model: nn.Module | None = None) -> PeftModel:
        """Load the base model with the finished adapter and head on it, in eval mode.

        Without `model` it goes to the device of the run, or to the CPU if that device is missing or has too
        little memory. A language model that the run held in 16 bits stays so, with adapters in float32,
        unless a norm was trained; all other models are in float32. `model` is the base model as it was passed
        to the search. It is changed in place, `config.id2label` too: the trained head has the run's order of
        labels.
        """
        return commands.load_finished(self, self.path, module=model)

    def push_to_hub(
        self, repo: str, *, private: bool = False, overwrite: bool = False, base_model: str | None = None
    ) -> Pushed:
        """Upload the finished adapter with its model card and tokenizer to `user/name` on the hub.

        `overwrite` allows an existing repository. `base_model` is the id of the base model on the hub, for a
        run that loaded it from a folder.
        """
        return commands.push(self.path, repo, private=private, overwrite=overwrite, base_model=base_model)

    def __repr__(self) -> str:
        return report.short_text(self, _shown(self.path))

    def _repr_html_(self) -> str:
        return report.short_html(self, _shown(self.path), part_words(self))


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def with_path(result: SearchResult, path: Path) -> Result:
    """Make the `Result` of a search, which knows the folder of its run."""
    output = result.spec.output.model_copy(update={"out": str(path.absolute())})
    return Result(**{**vars(result), "spec": result.spec.model_copy(update={"output": output})})


@contextmanager
def training_modes() -> Iterator[None]:
    """Allow gradients and make new tensors float32 within the context, whatever the caller set in torch."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(usual)
