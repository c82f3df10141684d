"""The protocol of a PEFT method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from autopeft.records import Adapter, OptionValue, Site

if TYPE_CHECKING:
    from peft import PeftConfig

Options = Mapping[str, OptionValue]


@runtime_checkable
class Method(Protocol):
    """A PEFT method: where it fits, what it costs, and its `peft` configs.

    `autopeft.methods.parts.PeftMethod` is a record that meets this protocol with defaults for most members.

    Attributes:
        name: What specifications and plans call it, such as `ln_tuning`.
        label: The name as people write it, such as "norm tuning".
        short_label: One word for the cell of a map, such as "norm".
        summary: What is trained, in one phrase.
        formula: Trainable parameters of a map of n inputs and m outputs at rank r, for people.
        ranked: Whether the allocator gives a rank to each site; if not, adapters have rank 0.
        shared: Whether the adapters of a plan hold a common state. Then a plan has one config of the method,
            which is attached first.
        identity_at_start: Whether untrained adapters leave the base model's outputs as they are.
        merges: Whether trained adapters can be merged into the base model's weights.
        learning_rate_range: Lowest and highest rate that a search tries, ascending, > 0.
        learning_rate_source: Where the range comes from.
        step_time: Duration of a training step relative to plain LoRA at the same sites, > 0.
        step_time_source: Where the step time comes from.
        choices: Option -> values that a policy may choose; the first is the default.
        readable_type: Name in `PeftType` of the configs whose every setting a plan of this method can hold: a
            user's config of that type becomes a plan. None where a plan would lose a setting.
    """

    name: str
    label: str
    short_label: str
    summary: str
    formula: str
    ranked: bool
    shared: bool
    identity_at_start: bool
    merges: bool
    learning_rate_range: tuple[float, float]
    learning_rate_source: str
    step_time: float
    step_time_source: str
    choices: Mapping[str, tuple[OptionValue, ...]]
    readable_type: str | None

    def refusal(self, site: Site, /) -> str | None:
        """Why the method cannot be put at a site, as a phrase that follows its name; None where it can."""

    def options(self, site: Site, /, **choices: OptionValue) -> Options:
        """The options of an adapter at a site: the policy's choices, and what follows from the site."""

    def ranks(self, site: Site, options: Options, /) -> Sequence[int]:
        """The ranks that may be given at a site, ascending, >= 1; (1,) where the method has none."""

    def cost(self, site: Site, rank: int, options: Options, /) -> int:
        """Trainable parameters at a site, exact; 0 at rank 0, strictly increasing over `ranks`."""

    def scale(self, rank: int, /, **choices: OptionValue) -> float:
        """Alpha / r of an adapter of a rank under the policy's choices; 1 where the method has no scale."""

    def configs(self, adapters: Sequence[Adapter], /) -> tuple[PeftConfig, ...]:
        """The `peft` configs that make these adapters and no others.

        Args:
            adapters: Non-empty, all of this method, at most one for each site.

        Raises:
            SpecError: No stack of configs makes these adapters together.
        """

    def servers(self, options: Options, /) -> tuple[str, ...]:
        """Those of vllm, tgi and llama.cpp that read an exact export of an adapter with these options."""

    def read_choices(self, config: Any, /) -> Options:
        """The choices that a config of `readable_type` stands for, as far as they hold for all of it.

        Raises:
            SpecError: The config has a setting that a plan cannot say.
        """
