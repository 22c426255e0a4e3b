"""What goes to a cluster, and what a job is called."""

import subprocess
from pathlib import Path

import pytest
from service import GRID, PROFILE

from pld_grid import api, jobs
from pld_grid.errors import InputError
from pld_grid.workspace import Workspace


def _write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 1024)


def _shipped(folder: Path) -> set[str]:
    return {str(path) for path in jobs.shipped_files(folder)}


def test_a_plain_folder_is_shipped_without_environments_and_results(tmp_path: Path) -> None:
    _write(tmp_path, "grids/a.yaml", "mine.py", ".venv/bin/python", ".pld_grid/store/x", "mlruns/0", "a/__pycache__/b")
    (tmp_path / "link").symlink_to("/etc/hostname")
    assert _shipped(tmp_path) == {"grids/a.yaml", "mine.py"}


def test_a_repository_is_shipped_as_git_would_take_it(tmp_path: Path) -> None:
    _write(tmp_path, "tracked.yaml", "gone.yaml", "new.yaml", "data/big.bin", ".pld_grid/store/x")
    (tmp_path / ".gitignore").write_text("data/\n")

    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("add", "tracked.yaml", "gone.yaml")
    (tmp_path / "gone.yaml").unlink()
    assert _shipped(tmp_path) == {".gitignore", "tracked.yaml", "new.yaml"}


def test_too_much_is_refused_with_the_largest_files_named(tmp_path: Path) -> None:
    here, stage = tmp_path / "here", tmp_path / "stage"
    stage.mkdir()
    _write(here, "a.yaml", "b.yaml")
    (here / "huge.bin").write_bytes(bytes(3 * 2**20))
    with pytest.raises(InputError) as told:
        jobs._stage(here, stage, limit=2**20)
    assert "this folder has 3 MiB to send, Ray takes 1; the largest: huge.bin (3 MiB), a.yaml" in str(told.value)
    assert list(stage.iterdir()) == []
    jobs._stage(here, stage, limit=4 * 2**20)
    assert sorted(path.name for path in stage.iterdir()) == ["a.yaml", "b.yaml", "huge.bin"]


def test_a_job_is_named_by_its_cells_and_where_they_go(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(PROFILE)
    (tmp_path / "losses.yaml").write_text(GRID)
    (tmp_path / "other.yaml").write_text(GRID.replace("epochs: 6", "epochs: 7"))
    one = api.load_grid(tmp_path / "losses.yaml", str(tmp_path / "tiny.yaml"))
    other = api.load_grid(tmp_path / "other.yaml", str(tmp_path / "tiny.yaml"))
    here, there = Workspace("/shared", "http://mlflow:5000"), Workspace("/shared/2", "http://mlflow:5000")
    names = {jobs.job_name([one], here), jobs.job_name([other], here), jobs.job_name([one], there)}
    assert len(names) == 3
    again = api.load_grid(tmp_path / "losses.yaml", str(tmp_path / "tiny.yaml"))
    assert jobs.job_name([again], here) in names
    # A password is no part of where results go.
    secret = Workspace("/shared", "http://me:secret@mlflow:5000")
    assert jobs.job_name([one], secret) == jobs.job_name([one], here)


def test_a_grid_outside_the_folder_is_refused_before_anybody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "losses.yaml").write_text(GRID)
    (tmp_path / "here" / "tiny.yaml").write_text(PROFILE)
    workspace = Workspace("/shared", "http://mlflow:5000")
    with pytest.raises(InputError, match="outside this folder"):
        jobs.submit([tmp_path / "losses.yaml"], "tiny.yaml", workspace, address="http://127.0.0.1:9")
