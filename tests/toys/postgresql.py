"""A PostgreSQL server of a test, on a socket in a short temporary folder, and workers that it connects."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PASSWORD = "Kopfstein7"  # nothing of a run may hold it


def binaries() -> Path | None:
    """The folder of PostgreSQL's programs, of which Debian puts only some on the path; None without one."""
    folders = [*Path("/usr/lib/postgresql").glob("*/bin"), *map(Path, os.get_exec_path())]
    return next((folder for folder in folders if (folder / "initdb").is_file()), None)


class Server:
    """A server that can be stopped and started; root lends it to another user, since it refuses root."""

    def __init__(self, folder: Path) -> None:
        self._binaries = binaries()
        self._user = "nobody" if os.getuid() == 0 else None
        self._folder, self._data = folder, folder / "data"
        (folder / "password").write_text(PASSWORD)
        if self._user is not None:
            for path in (folder, folder / "password"):
                shutil.chown(path, self._user)
        authentication = ["--auth=scram-sha-256", f"--pwfile={folder}/password", "--username=me"]
        self._run("initdb", "-D", self._data, *authentication, "--no-sync")
        self.start()

    @property
    def url(self) -> str:
        """The address with its password."""
        return f"postgresql://me:{PASSWORD}@/postgres?host={self._folder}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-c listen_addresses='' -c unix_socket_directories={self._folder} -c fsync=off"
        log = self._folder / "log"
        self._run("pg_ctl", "start", "-w", "-D", self._data, "-l", log, "-o", options)

    def stop(self) -> None:
        """End it, and with it every connection."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", self._data)

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._binaries / program), *map(str, arguments)]
        # A file, not a pipe, which the server would keep open.
        with tempfile.TemporaryFile() as output:
            subprocess.run(command, check=True, user=self._user, stdout=output, stderr=output, cwd="/")


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """A server for the time of the context, in a short folder: the path of a socket has at most 103 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    server = Server(folder)
    try:
        yield server
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):  # a test may have stopped it
            server.stop()
        shutil.rmtree(folder)


@contextlib.contextmanager
def running_workers(n_workers: int, url: str, *, command: tuple[str, ...] = ()) -> Iterator[list]:
    """Processes of `autopeft worker`, or of another command; those that still run afterwards are ended."""
    command = command or (sys.executable, "-m", "autopeft", "worker")
    environment = {**os.environ, "DATABASE_URL": url, "PYTHONPATH": os.pathsep.join(sys.path)}
    workers = [
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for _ in range(n_workers)
    ]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait()
            worker.stdout.close()


def ended(workers: list, *, seconds: float = 60.0) -> bool:
    """Whether all workers end by themselves within a time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if all(worker.poll() is not None for worker in workers):
            return True
        time.sleep(0.1)
    return False
