"""The built wheel works outside the checkout, with search spaces, templates and sample data inside it."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "-w", str(work)], check=True
    )
    (wheel,) = work.glob("autopeft-*.whl")
    subprocess.run([*pip, "install", str(wheel), "--no-deps", "--target", str(work / "target")], check=True)
    return work / "target"


def test_links_of_the_readme_are_whole_on_a_package_index(target: Path) -> None:
    (metadata,) = target.glob("autopeft-*.dist-info/METADATA")
    shown = metadata.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", shown)
    assert len(links) > 20 and [link for link in links if not link.startswith("https://")] == []
    places = (
        "https://github.com/autopeft/autopeft/blob/main/",
        "https://raw.githubusercontent.com/autopeft/",
    )
    inside = [link.split("/main/")[1].partition("#")[0] for link in links if link.startswith(places)]
    assert len(inside) > 20 and [path for path in inside if not (ROOT / path).exists()] == []
    pictures = re.findall(r"!\[[^\]]*\]\((\S+)\)", shown)
    report = "https://raw.githubusercontent.com/autopeft/autopeft/main/docs/images/report.png"
    assert report in pictures and all(picture.startswith("https://") for picture in pictures)
    assert "https://github.com/autopeft/autopeft/blob/main/docs/quickstart.md)" in shown


def test_sdist_carries_all_that_the_tests_read(tmp_path: Path) -> None:
    build = f"import hatchling.build; hatchling.build.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True)
    (sdist,) = tmp_path.glob("autopeft-*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.split("/")[1] for name in archive.getnames()}
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    read = set(re.findall(r'(?:ROOT|parents\[\d\]) / "([\w.]+)', sources))
    assert {"docs", "tools", "CONTRIBUTING.md", ".github"} <= read
    assert {name for name in read if (ROOT / name).exists()} - packed == set()


def in_wheel(target: Path, cwd: Path, *arguments: object) -> str:
    command = [sys.executable, *(str(argument) for argument in arguments)]
    done = subprocess.run(
        command,
        cwd=cwd,
        env={"PYTHONPATH": str(target), "PATH": "", "HOME": str(cwd)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel_carries_spaces_templates_licence_and_sample(target: Path, tmp_path: Path) -> None:
    inside = target / "autopeft"
    assert {path.stem for path in (inside / "search_spaces").glob("*.yaml")} == {
        path.stem for path in (ROOT / "search_spaces").glob("*.yaml")
    }
    assert (inside / "sample_data/clinc_domain10/ATTRIBUTION.md").is_file()
    assert (inside / "templates/report.html.j2").is_file()
    assert (inside / "py.typed").is_file() and (inside / "SKILL.md").is_file()
    assert list(target.glob("autopeft-*.dist-info/licenses/LICENSE"))
    where = in_wheel(target, tmp_path, "-c", "import autopeft; print(autopeft.__file__)")
    assert Path(where.strip()).is_relative_to(target)


def test_wheel_searches_outside_the_checkout(target: Path, model_dir: Path, tmp_path: Path) -> None:
    flags = "--budget 5% --max-steps 4 --effort quick --max-examples 200".split()
    paths = ("--model", model_dir, "--out", tmp_path / "run")
    in_wheel(target, tmp_path, "-m", "autopeft", "search", *flags, *paths)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert "lora_only" in in_wheel(target, tmp_path, "-m", "autopeft", "info", "spaces")
