"""The calls of `huggingface_hub.HfApi` that `push` makes, on repositories in memory."""

from __future__ import annotations

from pathlib import Path


class Hub:
    """Repositories by name, each with the contents of its files."""

    def __init__(self, repositories=()):
        self.repositories = {name: {} for name in repositories}
        self.private = {}

    def repo_exists(self, repo):
        return repo in self.repositories

    def create_repo(self, repo, *, private, exist_ok):
        self.repositories.setdefault(repo, {})
        self.private[repo] = private
        return f"https://hub/{repo}"

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        files = [path for path in Path(folder_path).rglob("*") if path.is_file()]
        contents = {path.relative_to(folder_path).as_posix(): path.read_bytes() for path in files}
        self.repositories[repo_id] |= contents
