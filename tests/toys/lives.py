"""The life of a plan on a toy base model: attached, trained, saved, merged, loaded, taken off again."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from peft import PeftModel

from autopeft.model import load_weights, merge, save_weights
from toys.architectures import train
from toys.bases import state_of


@dataclass(kw_only=True)
class Life:
    """All that was seen of a plan; logits have shape (B, …). Without training only the first three fields.

    `is_left_alone` says for each use of the base model whether it was bit-identical afterwards.
    """

    plan: object
    n_trainable: dict
    movement_at_start: float
    largest_gradients: dict = field(default_factory=dict)
    trained: torch.Tensor | None = None
    merged: torch.Tensor | None = None
    untrained: torch.Tensor | None = None
    loaded: torch.Tensor | None = None
    loaded_by_peft: torch.Tensor | None = None
    is_left_alone: list = field(default_factory=list)


def loss_of(model, batch):
    """Of any toy, task head or language model."""
    return model(**batch).loss


@torch.no_grad()
def logits(model, batch):
    return model.eval()(**batch).logits


@torch.no_grad()
def hidden(model, base, batch):
    """The input of the task head; the logits of a language model, which has none."""
    if not base.head_names:
        return logits(model, batch)
    seen = []
    names = (base.head_names[0], f"base_model.{base.head_names[0]}", f"base_model.model.{base.head_names[0]}")
    (head,) = (module for name, module in model.named_modules() if name in names)
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    model.eval()(**batch)
    handle.remove()
    return seen[0]


def n_trainable(model, base):
    """Trainable parameters apart from the head, as `peft` counts them and by `requires_grad`."""
    by_peft, _ = model.get_nb_trainable_parameters()
    by_gradient = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"by peft": by_peft - base.head_params, "by gradient": by_gradient - base.head_params}


def movement(before, after):
    """Largest difference of the features of the text."""
    return float((after - before).abs().max())


def start_of(base, plan, batch, *, attach):
    """The life of a plan that is attached and not trained."""
    before = hidden(base.module, base, batch)
    with attach(base, plan) as model:
        return Life(
            plan=plan,
            n_trainable=n_trainable(model, base),
            movement_at_start=movement(before, hidden(model, base, batch)),
        )


def live(base, spare, plan, *, batch, attach, names, folder):
    """The whole life of a plan, whose adapters have some names in `peft`; `folder` gets the weights.

    The base model is lent twice: for training, and for loading the weights, which ends in an error. Merging
    uses up `spare`, the same base model again.
    """
    state, before = (base.sha256(), state_of(base.module)), hidden(base.module, base, batch)
    with attach(base, plan) as model:
        life = Life(
            plan=plan,
            n_trainable=n_trainable(model, base),
            movement_at_start=movement(before, hidden(model, base, batch)),
        )
        life.largest_gradients = train(model.train(), batch, steps=2)
        life.trained = logits(model, batch)
        save_weights(model, names, folder)
    life.is_left_alone.append(state == (base.sha256(), state_of(base.module)))
    try:
        with attach(base, plan, seed=5) as model:
            life.untrained = logits(model, batch)
            load_weights(model, names, folder)
            life.loaded = logits(model, batch)
            loss_of(model.train().requires_grad_(True), batch).backward()
            raise ZeroDivisionError("in a trial")
    except ZeroDivisionError:
        life.is_left_alone.append(state == (base.sha256(), state_of(base.module)))
    if len(names) == 1:  # several are merged folder by folder: see the tests of mixes
        model = PeftModel.from_pretrained(spare.module, folder)
        life.loaded_by_peft = logits(model, batch)
        life.merged = logits(merge(model), batch)
    else:
        with attach(spare, plan, seed=5) as model:
            load_weights(model, names, folder)
            life.merged = logits(merge(model), batch)
    return life
