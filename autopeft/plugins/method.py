"""The protocol of a PEFT method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from packaging.version import Version

from autopeft.types import Adapter, OptionValue, Target

if TYPE_CHECKING:
    from peft import PeftConfig

Options = Mapping[str, OptionValue]

# Older releases load the weights of a second method wrongly, without an error (tests/methods/test_mixes.py).
MIXES_SINCE_PEFT = "0.21.2"
REFERENCE_WIDTH = 384  # hidden size of MiniLM-L6, on which most ranges of learning rates were measured


@runtime_checkable
class Method(Protocol):
    """A PEFT method: where it fits, what it costs, and its `peft` configs.

    `autopeft.methods._shared.PeftMethod` is a record that meets this protocol with defaults for most members.
    Five members more are optional. `takes_rank_pattern`: one `peft` config may hold different ranks; else a
    search gives all target modules of a plan one rank. `choice_labels`: `option=value` -> the choice in
    people's words ("DoRA"). `starts_slowly`: short runs judge the method too low, so that a search gives it
    longer runs. `rank_exponent`: the best learning rate falls with the rank to this power, 0 without the
    member. `since_peft`: the first release of `peft` that has the method; empty if every supported one has
    it.
    """

    name: str  # what specifications and plans call it, such as `ln_tuning`
    label: str  # the name as people write it, such as "norm tuning"
    short_label: str  # one word for the cell of a map, such as "norm"
    summary: str  # what is trained, in one phrase
    formula: str  # trainable parameters of a map of n inputs and m outputs at rank r, for people
    ranked: bool  # whether the allocator gives a rank to each target module; if not, adapters have rank 0
    # Whether ranks are those of low-rank matrices: `--max-rank` bounds only these, and a user's plan may have
    # ranks that no search proposes. A number of frequencies, tokens or units is none.
    low_rank: bool
    # Whether the adapters of a plan hold a common state: then the plan has one config of the method, and
    # attaches it first.
    shared: bool
    identity_at_start: bool  # whether untrained adapters leave the base model's outputs as they are
    merges: bool  # whether trained adapters can be merged into the base model's weights
    # Lowest and highest rate that a search tries, ascending, > 0, on a base model of `REFERENCE_WIDTH` until
    # `at_width` moves it.
    learning_rate_range: tuple[float, float]
    learning_rate_source: str  # where the range comes from
    step_time: float  # duration of a training step relative to plain LoRA at the same target modules, > 0
    step_time_source: str  # where the step time comes from
    choices: Mapping[str, tuple[OptionValue, ...]]  # option -> values of a policy; the first is the default
    # Name in `PeftType` of the configs whose every setting a plan of this method can hold: a user's config of
    # that type becomes a plan. None where a plan would lose a setting.
    readable_type: str | None

    def at_width(self, hidden_size: int, /) -> Method:
        """The method with its learning rates for base models of a hidden size."""

    def refusal(self, target: Target, /) -> str | None:
        """Say why the method cannot be at a target module, as a phrase after its name; None if it can."""

    def only_if_asked(self, target: Target, /) -> bool:
        """Whether a user's own plan may have the method at a target, though `refusal` bars searches."""

    def options(self, target: Target, /, **choices: OptionValue) -> Options:
        """The options of an adapter at a target: the policy's choices, and what follows from the target."""

    def ranks(self, target: Target, options: Options, /) -> Sequence[int]:
        """List the ranks that a target module may get, ascending, >= 1; (1,) if the method has no ranks."""

    def cost(self, target: Target, rank: int, options: Options, /) -> int:
        """Count trainable parameters at a target, exactly; 0 at rank 0, strictly increasing over `ranks`."""

    def scale(self, rank: int, /, **choices: OptionValue) -> float:
        """Alpha / r of an adapter of a rank under the policy's choices; 1 where the method has no scale."""

    def configs(self, adapters: Sequence[Adapter], /) -> tuple[PeftConfig, ...]:
        """Build the `peft` configs that make exactly these adapters.

        `adapters` are all of this method, one or more, at most one for each target module.

        Raises:
            SpecError: No stack of configs makes these adapters together.
        """

    def servers(self, options: Options, /) -> tuple[str, ...]:
        """List which of vllm, tgi and llama.cpp can load an exact export of an adapter with these options."""

    def read_choices(self, config: Any, /) -> Options:
        """Read the choices that hold for all of a config of `readable_type`.

        Raises:
            SpecError: The config has a setting that a plan cannot hold.
        """


def missing_in_peft(label: str, since_peft: str) -> str:
    """Return the sentence for a method that the installed `peft` does not have; empty if it has it.

    Args:
        label: The method's name, as people write it.
        since_peft: The first release of `peft` that has the method; empty if every supported one has it.
    """
    installed = metadata.version("peft")
    if not since_peft or Version(installed) >= Version(since_peft):
        return ""
    return f"{label} needs peft {since_peft} or newer, and {installed} is installed. Upgrade peft to use it."


def rate_factor(method: Method, lead: Method) -> float:
    """Compute the factor on a plan's learning rate, which is the `lead` method's, for another method of it.

    It is the ratio of the geometric middles of the two methods' ranges, to three digits: one rate for both
    would be wrong for one of them.
    """
    middle, lead_middle = (math.sqrt(math.prod(each.learning_rate_range)) for each in (method, lead))
    return float(f"{middle / lead_middle:.3g}")


def slow_starters(methods: Mapping[str, Method]) -> frozenset[str]:
    """List the methods that short runs judge too low (`starts_slowly`)."""
    return frozenset(name for name, method in methods.items() if getattr(method, "starts_slowly", False))
