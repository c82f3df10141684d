"""Narrows a search space to what servers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autopeft.errors import SpecError
from autopeft.extension import Method
from autopeft.records import OptionValue
from autopeft.space.spaces import MethodSpace, MixPart, Space

SERVERS = ("vllm", "tgi", "llama.cpp")


def servable(space: Space, servers: Sequence[str], methods: Mapping[str, Method]) -> Space:
    """Narrow a space to what each of some servers reads, by an exact export of the trained adapter.

    A method loses the options that one of the servers does not read. A mix with such an option is dropped.

    Raises:
        SpecError: Nothing of the space is read by all servers.
    """

    def narrow(name: str, part: MethodSpace) -> MethodSpace | None:
        def is_served(options: Mapping[str, OptionValue]) -> bool:
            return set(servers) <= set(methods[name].servers(options))

        options = {
            option: tuple(value for value in values if is_served({option: value}))
            for option, values in part.options.items()
        }
        if not is_served({}) or not all(options.values()):
            return None
        if isinstance(part, MixPart) and options != part.options:
            return None
        return part.model_copy(update={"options": options})

    narrowed = space.narrowed(narrow)
    if not narrowed.arms:
        raise SpecError(
            f"Nothing of the search space is read by {', '.join(servers)}, which take plain LoRA alone; "
            "choose a space with LoRA, or leave --serve-on out and export a merged model."
        )
    return narrowed
