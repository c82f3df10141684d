"""`tune`: the search, with a training function or command of the user in place of autopeft's own loop."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from autopeft.errors import SpecError, TrainingError, first_line_of
from autopeft.model import is_out_of_memory
from autopeft.records import SearchResult, Status
from autopeft.run.ask_tell import Study
from autopeft.run.trials import Score, Trial

_PLACES = ("{trial}", "{result}")  # of the paths in a command
_PAUSE_SECONDS = 2.0  # between two looks for a trial that another process has; chosen by hand
_SHOWN = 200  # characters of the last line of a log; chosen by hand

log = logging.getLogger(__name__)


def tune(
    train: Callable[[Trial], Score | float], study: Study, *, interrupt: Callable[[], None] = lambda: None
) -> SearchResult:
    """Give each trial of a study to a training function until the study has its answer, and write that.

    An error of the function is a failed trial, and the search goes on. Several processes may call this on one
    folder; each takes the trials that no other has.

    Args:
        train: Trains and evaluates as the trial says, and returns its score.
        study: Whose trials to train.
        interrupt: Called before each trial; what it raises stops the search, which goes on when it is called
            again.

    Raises:
        TrainingError: No baseline could be trained.
    """
    while not study.is_finished:
        interrupt()
        trial = study.ask()
        if trial is None:  # another process has what is needed next
            time.sleep(_PAUSE_SECONDS)
            continue
        log.info("Trial %d: %s, %d steps, on %s", trial.number, trial.words, trial.steps, trial.split)
        try:
            score = train(trial)
            study.tell(trial, score)
            log.info("Trial %d: %g", trial.number, Score.given(score).value)
        except Exception as error:  # a failed trial is a value
            is_ours = isinstance(error, TrainingError)
            reason = first_line_of(error) if is_ours else f"{type(error).__name__}: {first_line_of(error)}"
            log.warning("Trial %d failed: %s", trial.number, reason)
            log.debug("Trial failed", exc_info=True)
            study.fail(trial, reason, status=Status.OUT_OF_MEMORY if is_out_of_memory(error) else Status.FAIL)
        except BaseException:
            study.give_back(trial)
            raise
    return study.finish()


def command(words: Sequence[str], *, max_seconds: float | None = None) -> Callable[[Trial], Score]:
    """A training function that runs a command for each trial, its output in the trial's `log.txt`.

    Args:
        words: The command and its arguments. `{trial}` in them is the path of a JSON file with the keys of
            `TrialFile`, `{result}` the path to which the command writes JSON with the keys of `ScoreFile`.
        max_seconds: After which a trial is killed, with the processes that it started; None lets it run.

    Raises:
        SpecError: The command lacks one of the two places.
    """
    lacking = [place for place in _PLACES if not any(place in word for word in words)]
    if lacking:
        raise SpecError(
            f"The command has no {' and no '.join(lacking)}; name both, as in: autopeft tune … -- "
            "python train.py {trial} {result}"
        )

    def run(trial: Trial) -> Score:
        result, output_path = trial.path / "result.json", trial.path / "log.txt"
        paths = str(trial.path / "trial.json"), str(result)
        filled = [word.replace(_PLACES[0], paths[0]).replace(_PLACES[1], paths[1]) for word in words]
        with output_path.open("wb") as output:
            try:
                process = subprocess.Popen(
                    filled,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                reason = error.strerror or error
                raise TrainingError(f"{filled[0]} cannot be started: {reason}.") from None
            try:
                code = process.wait(max_seconds)
            except subprocess.TimeoutExpired:
                raise TrainingError(f"The command took over {max_seconds:g} s and was ended.") from None
            finally:  # also what it left running
                _end(process)
        if code:
            lines = output_path.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            raise TrainingError(f"The command ended with {how}: {last[:_SHOWN]} ({output_path}).")
        return Score.read(result)

    return run


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command with all processes of its group, also those that outlived it."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
