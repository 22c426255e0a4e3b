"""Jobs on a cluster: the files that are sent, job names and owners."""

import platform
import pwd
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_process import GRID, Service

from pld_grid.orchestrate.ray_jobs import Job
from pld_grid.service import job_submission
from pld_grid.service.workspace import Workspace
from pld_grid.util.errors import InputError


def _write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 1024)


def _shipped(folder: Path) -> set[str]:
    return {str(path) for path in job_submission.list_shipped_files(folder)}


def test_list_shipped_files_of_a_folder_skips_environments_and_results(tmp_path):
    _write(tmp_path, "grids/a.yaml", "mine.py", ".venv/bin/python", ".pld_grid/store/x", "mlruns/0", "a/__pycache__/b")
    (tmp_path / "link").symlink_to("/etc/hostname")
    assert _shipped(tmp_path) == {"grids/a.yaml", "mine.py"}


def test_list_shipped_files_of_a_repository_follows_git(tmp_path):
    _write(tmp_path, "tracked.yaml", "gone.yaml", "new.yaml", "data/big.bin", ".pld_grid/store/x")
    (tmp_path / ".gitignore").write_text("data/\n")

    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("add", "tracked.yaml", "gone.yaml")
    (tmp_path / "gone.yaml").unlink()
    assert _shipped(tmp_path) == {".gitignore", "tracked.yaml", "new.yaml"}


def test_stage_too_large_names_the_largest_files(tmp_path):
    here, stage = tmp_path / "here", tmp_path / "stage"
    stage.mkdir()
    _write(here, "a.yaml", "b.yaml")
    (here / "huge.bin").write_bytes(bytes(3 * 2**20))
    with pytest.raises(InputError) as refused:
        job_submission._stage(here, stage, limit=2**20)
    assert "this folder has 3 MiB to send, Ray takes 1; the largest: huge.bin (3 MiB), a.yaml" in str(refused.value)
    assert list(stage.iterdir()) == []
    job_submission._stage(here, stage, limit=4 * 2**20)
    assert sorted(path.name for path in stage.iterdir()) == ["a.yaml", "b.yaml", "huge.bin"]


def test_job_name_depends_on_cells_and_workspace(tmp_path):
    service = Service(tmp_path)
    one, again = service.load_grid(), service.load_grid()
    other = Service(tmp_path, grid=GRID.replace("epochs: 6", "epochs: 7")).load_grid()
    here, there = Workspace("/shared", "http://mlflow:5000"), Workspace("/shared/2", "http://mlflow:5000")
    names = {job_submission.make_job_name([grid], where) for grid, where in ((one, here), (other, here), (one, there))}
    assert len(names) == 3
    assert job_submission.make_job_name([again], here) in names
    # A password does not change the name.
    secret = Workspace("/shared", "http://me:secret@mlflow:5000")
    assert job_submission.make_job_name([one], secret) == job_submission.make_job_name([one], here)


def test_submit_of_a_grid_outside_the_folder_fails_before_connecting(tmp_path, monkeypatch):
    Service(tmp_path / "here")
    (tmp_path / "losses.yaml").write_text(GRID)
    monkeypatch.chdir(tmp_path / "here")
    workspace = Workspace("/shared", "http://mlflow:5000")
    with pytest.raises(InputError, match="outside this folder"):
        job_submission.submit([tmp_path / "losses.yaml"], "tiny.yaml", workspace, address="http://127.0.0.1:9")


class Cluster:
    """Jobs as Ray keeps them: each id once."""

    address = "http://head:8265"

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        # Called once, between looking up running jobs and submitting one.
        self.before_submit: Callable[[], object] = list

    def list(self, prefix: str = "") -> list[Job]:
        return [job for job in self.jobs if job.job_id.startswith(prefix)]

    def submit(self, job_id: str, command: object, folder: object, environment: object, metadata: Any) -> bool:
        before_submit, self.before_submit = self.before_submit, list
        before_submit()
        if any(job.job_id == job_id for job in self.jobs):
            return False
        self.jobs.append(Job(job_id, "RUNNING", "", started=len(self.jobs), ended=0, metadata=metadata))
        return True

    def end(self, job_id: str) -> None:
        self.jobs = [replace(job, state="STOPPED", ended=1) if job.job_id == job_id else job for job in self.jobs]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(job_submission, "JobClient", lambda address: cluster)
    monkeypatch.setattr(platform, "node", lambda: "laptop")
    return cluster


Submit = Callable[[str], tuple[int, bool]]


@pytest.fixture
def submit(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Submit:
    """Submit the same grid as a user; returns the job's number and whether it is attached."""
    Service(tmp_path)
    monkeypatch.chdir(tmp_path)

    def submit_as(user: str) -> tuple[int, bool]:
        monkeypatch.setenv("LOGNAME", user)
        workspace = Workspace("/shared", "http://mlflow:5000")
        job = job_submission.submit(["losses.yaml"], "tiny.yaml", workspace, address=cluster.address)
        assert job.cells == 9
        return int(job.job_id.rpartition("-")[2]), job.attached

    return submit_as


def test_submit_attaches_to_the_owners_running_job(submit, cluster):
    assert submit("ann") == (1, False)
    assert submit("ann") == (1, True)
    assert submit("bob") == (2, False)
    assert [job.owner for job in cluster.jobs] == ["ann@laptop", "bob@laptop"]
    assert submit("ann") == (1, True)
    cluster.end(cluster.jobs[0].job_id)
    assert submit("bob") == (2, True)
    assert submit("ann") == (3, False)


def test_submit_never_attaches_to_a_job_without_owner(submit, cluster):
    submit("ann")
    cluster.jobs = [replace(job, metadata={}) for job in cluster.jobs]
    assert submit("ann") == (2, False)


def test_submit_counts_on_after_a_job_was_deleted(submit, cluster):
    for number in (1, 2, 3):
        assert submit("ann") == (number, False)
        cluster.end(cluster.jobs[-1].job_id)
    del cluster.jobs[0]
    assert submit("ann") == (4, False)


@pytest.mark.parametrize(
    ("other", "ends", "expected"), [("ann", False, (1, True)), ("bob", False, (2, False)), ("ann", True, (2, False))]
)
def test_submit_when_another_submission_takes_its_number(submit, cluster, other, ends, expected):
    def submit_first() -> None:
        assert submit(other) == (1, False)
        if ends:
            cluster.end(cluster.jobs[-1].job_id)

    cluster.before_submit = submit_first
    assert submit("ann") == expected
    assert len(cluster.jobs) == expected[0]


def test_find_latest_job_prefers_own_jobs(submit, cluster, monkeypatch):
    with pytest.raises(InputError, match="no grid was submitted to http://head:8265 yet"):
        job_submission.find_latest_job(cluster, own=False)  # type: ignore[arg-type]
    for user in ("ann", "bob"):
        submit(user)

    def find_latest_job(user: str, *, own: bool) -> str:
        monkeypatch.setenv("LOGNAME", user)
        return job_submission.find_latest_job(cluster, own=own).job_id.rpartition("-")[2]  # type: ignore[arg-type]

    assert [find_latest_job("ann", own=own) for own in (False, True)] == ["1", "1"]
    assert [find_latest_job("bob", own=own) for own in (False, True)] == ["2", "2"]
    # A user without jobs may look at those of others, but has to name a job to stop it.
    assert find_latest_job("eve", own=False) == "2"
    with pytest.raises(InputError, match="no job at http://head:8265 is of eve@laptop; name one"):
        find_latest_job("eve", own=True)


def test_describe_submitter_without_user_name_uses_the_number(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(platform, "node", lambda: "pod")
    monkeypatch.setattr("os.getuid", lambda: 1234)
    assert job_submission.describe_submitter() == "uid-1234@pod"


def test_describe_submitter_is_one_printable_line(monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "laptop")
    monkeypatch.setenv("LOGNAME", "a\nb\udcff")
    assert job_submission.describe_submitter() == r"a\nb\udcff@laptop"
