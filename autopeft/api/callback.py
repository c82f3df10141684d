"""A callback that logs where the loss is sensitive while a `transformers.Trainer` trains."""

from __future__ import annotations

import logging
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from autopeft.sensitivity import layer_shares

log = logging.getLogger(__name__)


class SensitivityCallback(TrainerCallback):  # type: ignore[misc]
    """Logs the share of each layer in the gradient score Σ |weight × gradient| of what is trained.

    The shares go to `trainer.log`, and with it to every tracker of the trainer, as `sensitivity/LAYER`. They
    are in [0, 1] and sum to 1, with `outside` for what is in no layer; the task head is left out. A large
    share marks a layer in which training moves the loss. In full fine-tuning it is the score `gradient` with
    biases; with adapters it is that of the adapters. Gradients that are sharded over processes are not seen.

    Attributes:
        history: Step and shares by layer, for each time that they were logged.

    Example:
        trainer.add_callback(autopeft.SensitivityCallback(trainer, every_steps=50))
    """

    def __init__(self, trainer: Trainer, *, every_steps: int = 50) -> None:
        """Log to a trainer, at every so many optimizer steps.

        Raises:
            ValueError: `every_steps` is below 1.
        """
        if every_steps < 1:
            raise ValueError(f"every_steps is {every_steps}; it should be at least 1.")
        self.history: list[tuple[int, dict[str, float]]] = []
        self._trainer, self._every_steps = trainer, every_steps
        self._shares: dict[str, float] | None = None
        self._is_warned = False

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read the gradients of the step that is about to end."""
        if (state.global_step + 1) % self._every_steps == 0:
            self._shares = layer_shares(kwargs["model"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log the shares of this step, where they were read."""
        shares, self._shares = self._shares, None
        if shares:
            self.history.append((state.global_step, shares))
            self._trainer.log({f"sensitivity/{layer}": share for layer, share in shares.items()})
        elif shares is not None and not self._is_warned:
            self._is_warned = True
            log.warning(
                "No layer has a gradient above 0 at step %d, so no sensitivity is logged; gradients that are "
                "sharded over processes are not seen.",
                state.global_step,
            )
