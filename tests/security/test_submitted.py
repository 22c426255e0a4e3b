"""Jobs sent to a cluster: the shell parses the command exactly as built, and it contains no secret."""

import io
import itertools
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray
from cli_process import GRID, PROFILE, Service
from loopback_server import QuietHandler, serve
from run_with_secrets import IN_ENVIRONMENT, spellings

from pld_grid.service import job_submission
from pld_grid.service.workspace import Workspace
from pld_grid.util.errors import InputError

pytestmark = pytest.mark.slow

# Names with shell syntax: an unquoted one would create a file called `sprung`.
HOSTILE = [
    "$(touch sprung)",
    "`touch sprung`",
    "a; touch sprung",
    "a && touch sprung",
    "a | touch sprung",
    "a > sprung",
    "it's; touch sprung",
    'a"; touch sprung; "',
    "a\ntouch sprung",
    "${IFS}touch${IFS}sprung",
    "&touch sprung&",
    "~",
    "*",
    "-rf",
    "--address=elsewhere",
    "#",
    "\\",
    "!!",
    "é ü",
    "a b  c",
]


@dataclass
class Dashboard:
    """A fake of the parts of Ray's dashboard that accept jobs, and what it received."""

    address: str = ""
    jobs: list[dict[str, Any]] = field(default_factory=list)
    packages: list[bytes] = field(default_factory=list)
    received: bytes = b""


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    """Serve a fake dashboard on loopback for Ray's own client."""
    fake = Dashboard()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/api/packages/"):
                self.answer(404, {})
            elif self.path == "/api/version":
                self.answer(200, {"version": "4", "ray_version": ray.__version__, "ray_commit": ray.__commit__})
            else:
                self.answer(200, [])

        def do_PUT(self) -> None:
            fake.packages.append(self.body())
            self.answer(200, {})

        def do_POST(self) -> None:
            fake.jobs.append(json.loads(self.body()))
            self.answer(200, {"submission_id": fake.jobs[-1]["submission_id"], "job_id": None})

        def body(self) -> bytes:
            data = self.read_body()
            fake.received += data
            return data

        def answer(self, code: int, content: Any) -> None:
            self.send(json.dumps(content).encode(), code, Content_Type="application/json")
            # The token belongs in its header only.
            fake.received += "\n".join(v for k, v in self.headers.items() if k.lower() != "authorization").encode()
            fake.received += self.path.encode()

    with serve(Handler) as fake.address:
        yield fake


def _parse_with_shell(entrypoint: str, folder: Path) -> list[str]:
    """Return the arguments that `python` gets when a shell runs an entrypoint."""
    programs = folder / "programs"
    programs.mkdir()
    (programs / "python").write_text(
        f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n", encoding="utf-8"
    )
    (programs / "python").chmod(0o755)
    shell = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(folder)}
    done = subprocess.run(["sh", "-c", entrypoint], cwd=folder, env=shell, capture_output=True, text=True, check=True)
    assert [path.name for path in folder.iterdir()] == ["programs"]
    assert done.stderr == ""
    arguments: list[str] = json.loads(done.stdout)
    return arguments


def test_submit_quotes_names_for_the_shell(tmp_path, dashboard):
    service = Service(tmp_path / "here")
    grids = []
    for number, name in enumerate(HOSTILE):
        # Grid names are validated; folder names may contain anything.
        folder = service.folder / name
        folder.mkdir()
        (folder / f"grid{number}.yaml").write_text(GRID.replace("epochs: 6", f"epochs: {number + 1}"))
        grids.append(f"{name}/grid{number}.yaml")
    (service.folder / "-p").mkdir()
    (service.folder / "-p" / "own.yaml").write_text(PROFILE)
    options = {
        "--store": "/shared/$(touch sprung) '; touch sprung",
        "--tracking-uri": "http://mlflow:5000/`touch sprung`",
        "--data-dir": "/data/$(touch sprung)",
        "--experiment": "x; touch sprung",
    }
    submit = ("submit", "--address", dashboard.address, "--profile", "./-p/own.yaml")
    service.call(*submit, *itertools.chain(*options.items()), *(f"./{grid}" for grid in grids))
    (job,) = dashboard.jobs
    shell = tmp_path / "shell"
    shell.mkdir()
    assert job["entrypoint"].startswith("exec ")
    arguments = _parse_with_shell(job["entrypoint"], shell)
    assert arguments[:3] == ["-m", "pld_grid", "run"]
    named = arguments[3 : 3 + len(grids)]
    assert [name.removeprefix("./") for name in named] == grids
    assert not [name for name in named if name.startswith("-")]
    received = dict(zip(arguments[3 + len(grids) :: 2], arguments[4 + len(grids) :: 2], strict=True))
    assert received.items() >= {"--profile": "./-p/own.yaml", **options}.items()
    # The package contains the files under these names.
    (package,) = dashboard.packages
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        assert set(grids) <= set(archive.namelist())


def test_job_contains_no_secret_of_the_submitters_environment(tmp_path, dashboard):
    service = Service(tmp_path)
    service.environment |= IN_ENVIRONMENT | {"RAY_AUTH_MODE": "token"}
    places = ("--store", "s3://shared/runs@2026", "--tracking-uri", "http://mlflow:5000")
    _, err = service.run("submit", "--address", dashboard.address, *places)
    assert len(dashboard.jobs) == 1
    with zipfile.ZipFile(io.BytesIO(dashboard.packages[0])) as archive:
        everything = [dashboard.received, err.encode(), *(archive.read(name) for name in archive.namelist())]
    assert len(everything) > 3
    for place, secret in IN_ENVIRONMENT.items():
        for how, text in spellings(secret).items():
            assert not any(text in part for part in everything), (place, how)


@pytest.mark.parametrize(
    ("flag", "uri", "shown"),
    [
        ("--store", "ftp://user:hunter2@host/x", "ftp://host/x"),
        ("--store", "ftp://:hunter2@host/x", "ftp://host/x"),
        ("--store", "ftp://user:hun/ter2@host/x", "ftp://host/x"),
        ("--store", "abfs://box/x?token=hunter2", "abfs://box/x?token=***"),
        ("--tracking-uri", "http://user:hunter2@host:5000", "http://host:5000"),
        ("--tracking-uri", "postgresql://user@host/mlflow?password=hunter2", "postgresql://host/mlflow?password=***"),
    ],
)
def test_submit_rejects_passwords_in_uris(tmp_path, dashboard, monkeypatch, flag, uri, shown):
    Service(tmp_path)
    monkeypatch.chdir(tmp_path)
    places = {"--store": "/shared", "--tracking-uri": "http://mlflow:5000"} | {flag: uri}
    with pytest.raises(InputError, match=f"{flag}: a job's command can be read by all; leave") as refused:
        job_submission.submit(["losses.yaml"], "tiny.yaml", Workspace(*places.values()), address=dashboard.address)
    assert f" {shown} " in str(refused.value)
    assert "ter2" not in str(refused.value)
    assert dashboard.jobs == []
