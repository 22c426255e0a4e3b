"""What goes to a cluster, what a job is called, and whose it is."""

import platform
import pwd
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from service import GRID, PROFILE

from pld_grid import api, jobs
from pld_grid.errors import InputError
from pld_grid.schedule import Job
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


class Cluster:
    """Jobs as Ray keeps them, each name once."""

    address = "http://head:8265"

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        # Happens once, when somebody has looked at the jobs and is about to submit one.
        self.meanwhile: Callable[[], object] = list

    def list(self, prefix: str = "") -> list[Job]:
        return [job for job in self.jobs if job.job_id.startswith(prefix)]

    def submit(
        self, job_id: str, command: Sequence[str], folder: Path, environment: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> bool:  # fmt: skip
        meanwhile, self.meanwhile = self.meanwhile, list
        meanwhile()
        if any(job.job_id == job_id for job in self.jobs):
            return False
        self.jobs.append(Job(job_id, "RUNNING", "", started=len(self.jobs), ended=0, metadata=metadata))
        return True

    def end(self, job_id: str) -> None:
        self.jobs = [Job(job.job_id, "STOPPED", "", job.started, 1, job.metadata) if job.job_id == job_id else job
                     for job in self.jobs]  # fmt: skip

    def delete(self, job_id: str) -> None:
        self.jobs = [job for job in self.jobs if job.job_id != job_id]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(jobs, "connect", lambda address: cluster)
    monkeypatch.setattr(platform, "node", lambda: "laptop")
    return cluster


Submit = Callable[[str], tuple[int, bool]]


@pytest.fixture
def submit(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Submit:
    """Submits one and the same grid for somebody; the job's number, and whether it was there already."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(PROFILE)
    (tmp_path / "losses.yaml").write_text(GRID)

    def of(user: str) -> tuple[int, bool]:
        monkeypatch.setenv("LOGNAME", user)
        workspace = Workspace("/shared", "http://mlflow:5000")
        found = jobs.submit(["losses.yaml"], "tiny.yaml", workspace, address=cluster.address)
        assert found.cells == 9
        return int(found.job_id.rpartition("-")[2]), found.attached

    return of


def test_who_submits_a_running_grid_again_is_told_its_job(submit: Submit, cluster: Cluster) -> None:
    assert submit("ann") == (1, False)
    assert submit("ann") == (1, True)
    cluster.end(cluster.jobs[0].job_id)
    assert submit("ann") == (2, False)
    assert submit("ann") == (2, True)


def test_another_owner_of_the_same_cells_gets_a_job_of_their_own(submit: Submit, cluster: Cluster) -> None:
    assert submit("ann") == (1, False)
    assert submit("bob") == (2, False)
    assert [job.owner for job in cluster.jobs] == ["ann@laptop", "bob@laptop"]
    # Neither is told the other's.
    assert submit("ann") == (1, True)
    assert submit("bob") == (2, True)
    cluster.end(cluster.jobs[0].job_id)
    assert submit("bob") == (2, True)
    assert submit("ann") == (3, False)


def test_a_job_that_names_no_owner_is_nobodys(submit: Submit, cluster: Cluster) -> None:
    submit("ann")
    cluster.jobs = [Job(job.job_id, job.state, "", job.started, 0, {}) for job in cluster.jobs]
    assert submit("ann") == (2, False)


def test_numbers_go_on_after_a_job_was_deleted(submit: Submit, cluster: Cluster) -> None:
    for number in (1, 2, 3):
        assert submit("ann") == (number, False)
        cluster.end(cluster.jobs[-1].job_id)
    cluster.delete(cluster.jobs[0].job_id)
    assert submit("ann") == (4, False)


def test_two_submissions_at_the_same_moment_are_one_job_of_one_owner(submit: Submit, cluster: Cluster) -> None:
    first: list[tuple[int, bool]] = []
    cluster.meanwhile = lambda: first.append(submit("ann"))
    assert submit("ann") == (1, True)
    assert first == [(1, False)]
    assert len(cluster.jobs) == 1


def test_two_submissions_at_the_same_moment_are_two_jobs_of_two_owners(submit: Submit, cluster: Cluster) -> None:
    first: list[tuple[int, bool]] = []
    cluster.meanwhile = lambda: first.append(submit("bob"))
    assert submit("ann") == (2, False)
    assert first == [(1, False)]
    assert [job.owner for job in cluster.jobs] == ["bob@laptop", "ann@laptop"]


def test_a_job_that_came_and_went_at_the_same_moment_is_not_the_one_that_runs(submit: Submit, cluster: Cluster) -> None:
    def came_and_went() -> None:
        submit("ann")
        cluster.end(cluster.jobs[-1].job_id)

    cluster.meanwhile = came_and_went
    assert submit("ann") == (2, False)


def test_the_latest_job_is_ones_own(submit: Submit, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no grid was submitted to http://head:8265 yet"):
        jobs.latest(cluster, own=False)  # type: ignore[arg-type]
    for user in ("ann", "bob"):
        submit(user)

    def latest(user: str, *, own: bool) -> str:
        monkeypatch.setenv("LOGNAME", user)
        return jobs.latest(cluster, own=own).job_id.rpartition("-")[2]  # type: ignore[arg-type]

    assert [latest("ann", own=own) for own in (False, True)] == ["1", "1"]
    assert [latest("bob", own=own) for own in (False, True)] == ["2", "2"]
    # Who has none may look at anybody's, but stops none without its name.
    assert latest("eve", own=False) == "2"
    with pytest.raises(InputError, match="no job at http://head:8265 is of eve@laptop; name one"):
        latest("eve", own=True)


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(platform, "node", lambda: "pod")
    monkeypatch.setattr("os.getuid", lambda: 1234)
    assert jobs.submitter() == "uid-1234@pod"


def test_an_owner_is_one_line_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "laptop")
    monkeypatch.setenv("LOGNAME", "a\nb\udcff")
    assert jobs.submitter() == r"a\nb\udcff@laptop"
