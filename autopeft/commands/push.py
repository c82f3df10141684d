"""`push`: upload the finished adapter of a run, or that of `train`, to the hub."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi, errors
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from autopeft.errors import HubError, RunDirError, SpecError, reason_of
from autopeft.exports import name_base
from autopeft.finished.training_notes import finished_weights
from autopeft.report.write_card import TRAINED, hub_base, read_trained, write_card, write_trained_card
from autopeft.store import RunDir, is_run, read_plan, write_plan
from autopeft.train import WRITTEN_TEXTS
from autopeft.types import DataSpec, TrainedPlan

# Of the HTTP client beneath huggingface_hub: both a refusal of the hub and a failed connection raise it.
_HTTP_ERROR: type[Exception] = errors.HTTPError


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """A push: `files` maps names to bytes; `url` is None if nothing was uploaded."""

    repo: str
    base_model: str
    files: dict[str, int]
    url: str | None


def push(
    run: Path,
    repo: str,
    *,
    private: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    base_model: str | None = None,
) -> Pushed:
    """Upload trained weights with their model card; a repository that exists is refused without `overwrite`.

    `run` is the folder of a run, or one that `train` wrote. `base_model` is the id of the base model on the
    hub, for a run that loaded it from a folder. A dry run uploads nothing.

    Raises:
        SpecError: The name is not allowed, the repository exists, or the base model is not on the hub.
        RunDirError: The run has no finished weights.
        HubError: The hub cannot be reached, or refuses.
    """
    _check_name(repo)
    trained = read_trained(run)
    if trained is None and not is_run(run):
        raise RunDirError(
            f"{run} has neither the run.yaml of a search nor the {TRAINED} of `train`; pass a folder that "
            "has one."
        )
    weights = finished_weights(RunDir.open(run)) if trained is None else run
    result = trained or RunDir.open(run).load_result()
    base_model = base_model or hub_base(result.setting)
    if base_model is None:
        raise SpecError(
            f"The base model {result.setting.base_model} was loaded from a folder or was in memory; pass "
            "--base-model with the id of a model on the hub that has its weights."
        )
    document = read_plan(run)
    with tempfile.TemporaryDirectory(prefix="autopeft-") as parent:
        # Paths of this machine, and rows of the data.
        withheld = shutil.ignore_patterns(TRAINED, WRITTEN_TEXTS)
        folder = shutil.copytree(weights, Path(parent) / "adapter", ignore=withheld)
        if isinstance(result, TrainedPlan):
            write_trained_card(folder, result, at=repo, base_model=base_model)
        else:
            write_card(folder, result, repo=repo, base_model=base_model)
        is_trained_id = hub_base(result.setting) == base_model  # else the revision is of another repository
        revision = result.spec.model.revision if is_trained_id else None
        name_base(folder, base_model, revision=revision)
        base = document.model.model_copy(update={"id": base_model, "revision": revision})
        write_plan(folder / "plan.yaml", replace(document, model=base, data=DataSpec()))
        paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
        files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
        url = None if dry_run else _upload(folder, repo, private=private, overwrite=overwrite)
    return Pushed(repo=repo, base_model=base_model, files=files, url=url)


def _check_name(repo: str) -> None:
    """Raise SpecError unless a repository is named as user/name."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise SpecError(f"{repo!r} is not the name of a repository; pass user/name.") from error
    if "/" not in repo:
        raise SpecError(f"{repo!r} has no user; pass user/name.")


def _upload(folder: Path, repo: str, *, private: bool, overwrite: bool) -> str:
    """Upload a folder; returns the address of the repository."""
    api = HfApi()
    try:
        if not overwrite and api.repo_exists(repo):
            raise SpecError(f"{repo} exists on the hub; pass --overwrite, or another name.")
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload adapter with autopeft")
    except OfflineModeIsEnabled as error:
        raise HubError("The hub cannot be reached, since HF_HUB_OFFLINE is set; unset it.") from error
    except (_HTTP_ERROR, LocalTokenNotFoundError, ImportError) as error:  # ImportError: of a SOCKS proxy
        raise HubError(
            f"{repo} cannot be pushed ({reason_of(error)}); check the name, the "
            "network, and that `hf auth login` was run with a token that may write."
        ) from error
    return str(url)
