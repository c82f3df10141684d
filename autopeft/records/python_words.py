"""Messages of the command line in the words of Python: `resume=True` where there is `--resume`."""

from __future__ import annotations

import re

from autopeft.records.spec import SHORT_NAMES, RunSpec

_WORD = r"""('[^']*'|"[^"]*"|[^\s`]+)"""  # the quotes are those of `commands.quoted`
_RESUME = re.compile(rf"autopeft search --resume --out {_WORD}")
_SEARCH = re.compile(rf"`?autopeft search --config {_WORD}`?")
_FLAG = re.compile(r"(?<![\w/.-])--([a-z][a-z-]*)")
_SWITCHES = {"resume": "resume=True", "overwrite": "overwrite=True"}


def in_words_of(spec: RunSpec, message: str) -> str:
    """A message about a run, with arguments in place of flags where objects in memory were passed to it."""
    return python_words(message) if spec.is_in_memory else message


def python_words(message: str) -> str:
    """A message of the command line with arguments in place of flags and commands.

    Example:
        >>> python_words("run already holds files. Pass --resume to go on with that run, or another --out.")
        'run already holds files. Pass resume=True to go on with that run, or another out.'
        >>> python_words("go on with `autopeft search --resume --out runs/a`.")
        "go on with `autopeft.search(out='runs/a', resume=True)`."
        >>> python_words("data/my--data has 2 rows")
        'data/my--data has 2 rows'
    """
    message = _RESUME.sub(lambda m: f"autopeft.search(out={_quoted(m[1])}, resume=True)", message)
    message = _SEARCH.sub(lambda m: f"autopeft.search({_quoted(m[1])})", message)
    return _FLAG.sub(lambda m: _argument(m[1]) or m[0], message)


def _quoted(word: str) -> str:
    return repr(word.strip("'\""))


def _argument(flag: str) -> str | None:
    """The argument of a flag; None for a flag that Python has not."""
    name = flag.replace("-", "_")
    known = {str(field.flag).removeprefix("--"): short for short, field in SHORT_NAMES.items()}
    return _SWITCHES.get(flag) or known.get(flag) or (name if name in ("base_model", "private") else None)
