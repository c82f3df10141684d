"""Scores of toys, and brute force: gradients by plain autograd, of one example at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from autopeft.plugins import discover
from autopeft.sensitivity import ScoredModel, measure

SCORES = discover("autopeft.sensitivity")


@dataclass(frozen=True)
class ModelLoss:
    """A task with the loss that the model itself returns for its labels."""

    peft_task_type: str = "SEQ_CLS"

    def loss(self, model, batch):
        return model(**batch).loss


class FirstLayerLoss:
    """A task with a loss that only the first layer of a BERT can change."""

    peft_task_type = "SEQ_CLS"

    def loss(self, model, batch):
        features = {name: value for name, value in batch.items() if name != "labels"}
        return model(**features, output_hidden_states=True).hidden_states[1].square().mean()


def run_scores(names, base, batches, *, task, max_tokens=None, **settings):
    """Run a pass over a base model, for scores by name."""
    scored = ScoredModel(
        model=base.module, targets=base.targets, task=task, precision=base.precision, max_tokens=max_tokens
    )
    return measure([SCORES[name] for name in names], scored, batches, **settings)


def values_by_target(base, scores):
    """Target module name -> value."""
    return {target.name: value for target, value in zip(base.targets, scores.values, strict=True)}


def score_by_target(name, base, batches, *, task, **settings):
    """The values of one score by target module."""
    return values_by_target(base, run_scores([name], base, batches, task=task, **settings).scores[0])


def weights_of(base):
    """Target module name -> its weight, of a norm with its bias; of experts the parameter that holds them."""
    weights = {}
    for target in base.targets:
        if target.kind == "parameter":
            weights[target.name] = [base.module.get_parameter(target.name)]
        else:
            module = base.module.get_submodule(target.name)
            has_bias = target.kind == "norm" and target.has_bias
            weights[target.name] = [module.weight, module.bias] if has_bias else [module.weight]
    return weights


def gradients_of(parameters, loss):
    """Target module name -> gradients of its parameters, by autograd of the result of the function `loss`."""
    flat = [parameter for of_target in parameters.values() for parameter in of_target]
    if not flat:
        return {}
    for parameter in flat:
        parameter.requires_grad_(True)
    gradients = iter(torch.autograd.grad(loss(), flat, materialize_grads=True))
    for parameter in flat:
        parameter.requires_grad_(False)
    return {name: [next(gradients) for _ in of_target] for name, of_target in parameters.items()}


def squares_of(parameters, loss):
    """Target module name -> summed squared gradients."""
    gradients = gradients_of(parameters, loss)
    return {
        name: math.fsum(float(gradient.square().sum()) for gradient in of_target)
        for name, of_target in gradients.items()
    }


def examples_of(batch):
    """Each example as a batch of its own, cut to its longest row."""
    for row in range(len(batch["labels"])):
        example = {name: value[row : row + 1] for name, value in batch.items()}
        if "attention_mask" in example and example["labels"].ndim == 1:
            longest = int(example["attention_mask"].sum(dim=-1).max())
            example |= {name: value[..., :longest] for name, value in example.items() if name != "labels"}
        yield example


def mean_of(dictionaries, weights=None):
    """The mean of dictionaries of numbers with the same keys, weighted."""
    weights = weights or [1] * len(dictionaries)
    return {
        name: math.fsum(w * d[name] for w, d in zip(weights, dictionaries, strict=True)) / sum(weights)
        for name in dictionaries[0]
    }


def mean_squares(parameters, base, task, batches):
    """Target name -> summed squared gradients of an example, the mean over the examples of some batches."""
    return mean_of(
        [
            squares_of(parameters, lambda example=example: task.loss(base.module, example))
            for batch in batches
            for example in examples_of(batch)
        ]
    )
