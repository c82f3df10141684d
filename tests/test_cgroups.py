"""Limits of control groups, in folders as Docker, Kubernetes, Slurm and systemd make them."""

from __future__ import annotations

import pytest

from autopeft.cgroups import allowed_cores, left_bytes

GIB = 2**30
NO_LIMIT = 2**62


@pytest.fixture
def machine(tmp_path):
    """A function that writes the groups of a process and the files of control groups; gives both places."""

    def written(groups, **files):
        (tmp_path / "groups").write_text(groups)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return {"root": tmp_path / "cgroup", "groups": tmp_path / "groups"}

    return written


def second(folder, *, most, used, cached=0):
    """The files of a group in version 2."""
    stat = f"anon 7\ninactive_file {cached}\nactive_file 9"
    names = {"memory.max": most, "memory.current": used, "memory.stat": stat}
    return {f"{folder}{name}": text for name, text in names.items()}


def test_a_container_sees_its_limit_at_the_root(machine):
    places = machine("0::/\n", **second("", most=8 * GIB, used=3 * GIB, cached=GIB))
    assert left_bytes(**places) == 6 * GIB


def test_the_tightest_group_around_a_job_counts(machine):
    files = {
        **second("slurm/job_7/step_0/", most="max", used=GIB),
        **second("slurm/job_7/", most=4 * GIB, used=GIB),
        **second("slurm/", most=64 * GIB, used=62 * GIB),
    }
    places = machine("0::/slurm/job_7/step_0\n", **files)
    assert left_bytes(**places) == 2 * GIB


@pytest.mark.parametrize("groups", ["0::/\n", ""])
def test_without_a_limit_nothing_is_left_out(machine, groups):
    places = machine(groups, **second("", most="max", used=GIB))
    assert (left_bytes(**places), allowed_cores(**places)) == (NO_LIMIT, None)


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3.0),
        ("1:cpuset:/\n", {}, None),
    ],
)
def test_cores_are_quota_by_period(machine, groups, files, cores):
    assert allowed_cores(**machine(groups, **files)) == cores
