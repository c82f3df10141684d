"""Chooses which components of a model are adapted, by its topology or as the user says."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from autopeft.errors import TargetError
from autopeft.types import Component, Target, counted

_BY_DEFAULT: tuple[Component, ...] = (
    "attention",  # all linear layers of the body: Thinking Machines 2025, LoRA Without Regret
    "mlp",
    "shared_expert",  # reads every token, as an MLP does
    "norm",
)
# Where the recurrent part is adapted too, by the first words of the topology. Next to attention it brought
# 8.6 points of GSM8K in a parallel hybrid and cost 14.8 in a sequential one (arXiv 2604.22127).
_WITH_RECURRENT = ("parallel hybrid", "recurrent")
_WHY_LEFT_OUT: Mapping[Component, str] = {
    "recurrent": "it cost 14.8 points of GSM8K in a sequential hybrid (arXiv 2604.22127)",
    "routed_experts": "peft adapts all of them or none, and servers load no LoRA there",
    "vision": "the task has no images",
    "audio": "the task has no audio",
    "projector": "the task has neither images nor audio",
    "other": "it is neither attention nor MLP",
}
_READ_BY_KERNELS = "recurrent: fused kernels read the weights and pass adapters by"
# A weight, but not its type or device: `self.out_proj.weight, self.norm.weight.dtype`.
_READ = re.compile(r"\bself\.(\w+)\.weight\b(?!\.)")


def adapted_components(
    targets: Iterable[Target], topology: str, wanted: Sequence[Component]
) -> frozenset[Component]:
    """Return the components to adapt: those that the user wants, else the defaults of the topology.

    A model whose classes show nothing is adapted everywhere. Raises TargetError for a wanted component
    without a target module.
    """
    present = {target.component for target in targets}
    for component in wanted:
        if component not in present:
            raise TargetError(
                f"The model has no target module in {component}; choose --components from "
                f"{', '.join(sorted(present))}."
            )
    chosen = set(wanted or _BY_DEFAULT)
    if not wanted and topology.startswith(_WITH_RECURRENT):
        chosen.add("recurrent")
    return frozenset(chosen if wanted or present & (chosen - {"norm"}) else present)


def weights_read_directly(module: nn.Module, targets: Iterable[Target]) -> frozenset[str]:
    """Return the layers of recurrent modules whose weights the fused kernels read without calling them.

    An adapter there changes nothing on a GPU with these kernels: `out_proj` of Bamba, Granite 4 H and Zamba2,
    `x_proj` and `dt_proj` of Mamba. The source of the class around the layer shows it.
    """
    owners = {t.name: t.name.rpartition(".")[0] for t in targets if t.component == "recurrent"}
    kinds = {name: type(module.get_submodule(owner)) for name, owner in owners.items()}
    read = {kind: _weights_read_by(kind) for kind in set(kinds.values())}
    return frozenset(name for name, kind in kinds.items() if name.rpartition(".")[2] in read[kind])


def _weights_read_by(kind: type[nn.Module]) -> set[str]:
    try:
        return set(_READ.findall(inspect.getsource(kind)))
    except (OSError, TypeError):  # of a class without a file
        return set()


def left_out_sentences(
    targets: Sequence[Target], adapted: frozenset[Component], untrained: Iterable[str]
) -> tuple[str, ...]:
    """Say which linear layers and experts are left out, by component, and why."""
    leaves: dict[str, list[str]] = defaultdict(list)
    for target in (each for each in targets if each.kind != "norm"):
        if target.component not in adapted:
            why = _WHY_LEFT_OUT.get(target.component, "--components does not name it")
            leaves[f"{target.component.replace('_', ' ')}: {why}"].append(target.name.rpartition(".")[2])
        elif target.name in untrained:
            leaves[_READ_BY_KERNELS].append(target.name.rpartition(".")[2])
    return tuple(
        f"left out: {', '.join(dict.fromkeys(names))} ({counted(len(names), 'module')}), {component}"
        for component, names in leaves.items()
    )
