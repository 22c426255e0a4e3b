"""What reaches a cluster: a command that its shell takes apart as it was put together, and no secret."""

import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray
from service import GRID, PROFILE, Service
from watching import IN_ENVIRONMENT, spellings

from pld_grid import jobs
from pld_grid.errors import InputError
from pld_grid.workspace import Workspace

# Names that do harm where a shell reads them: each would leave a file called `sprung`.
HOSTILE = [
    "$(touch sprung)", "`touch sprung`", "a; touch sprung", "a && touch sprung", "a | touch sprung", "a > sprung",
    "it's; touch sprung", 'a"; touch sprung; "', "a\ntouch sprung", "${IFS}touch${IFS}sprung", "&touch sprung&",
    "~", "*", "-rf", "--address=elsewhere", "#", "\\", "!!", "é ü", "a b  c",
]  # fmt: skip


@dataclass
class Dashboard:
    """As much of Ray's dashboard as takes jobs, and what it was sent."""

    address: str = ""
    jobs: list[dict[str, Any]] = field(default_factory=list)
    packages: list[bytes] = field(default_factory=list)
    everything: bytes = b""


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    """A server on loopback that Ray's own client takes for a dashboard."""
    found = Dashboard()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/api/packages/"):
                self.answer(404, {})
            elif self.path == "/api/version":
                self.answer(200, {"version": "4", "ray_version": ray.__version__, "ray_commit": ray.__commit__})
            else:
                self.answer(200, [])

        def do_PUT(self) -> None:
            found.packages.append(self.body())
            self.answer(200, {})

        def do_POST(self) -> None:
            found.jobs.append(json.loads(self.body()))
            self.answer(200, {"submission_id": found.jobs[-1]["submission_id"], "job_id": None})

        def body(self) -> bytes:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            found.everything += data
            return data

        def answer(self, code: int, content: Any) -> None:
            data = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            # The token belongs into its header, and there alone.
            found.everything += "\n".join(v for k, v in self.headers.items() if k.lower() != "authorization").encode()
            found.everything += self.path.encode()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.address = f"http://127.0.0.1:{server.server_port}"
    yield found
    server.shutdown()
    server.server_close()


def _as_a_shell_reads(entrypoint: str, folder: Path) -> list[str]:
    """The arguments that `python` gets from an entrypoint, which Ray hands to a shell."""
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


def test_names_reach_the_job_as_they_are(tmp_path: Path, dashboard: Dashboard) -> None:
    service = Service(tmp_path / "here")
    grids = []
    for number, name in enumerate(HOSTILE):
        # Names of grids are checked on their own; those of folders are anybody's.
        folder = service.folder / name
        folder.mkdir()
        (folder / f"grid{number}.yaml").write_text(GRID.replace("epochs: 6", f"epochs: {number + 1}"))
        grids.append(f"{name}/grid{number}.yaml")
    (service.folder / "-p").mkdir()
    (service.folder / "-p" / "own.yaml").write_text(PROFILE)
    given = [
        "--store", "/shared/$(touch sprung) '; touch sprung", "--tracking-uri", "http://mlflow:5000/`touch sprung`",
        "--data-dir", "/data/$(touch sprung)", "--experiment", "x; touch sprung",
    ]  # fmt: skip
    code = "from pld_grid.cli import script; script()"
    submit = [sys.executable, "-c", code, "submit", "--address", dashboard.address, "--profile", "./-p/own.yaml"]
    command = [*submit, *given, *(f"./{grid}" for grid in grids)]
    done = subprocess.run(command, cwd=service.folder, env=service.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (job,) = dashboard.jobs
    shell = tmp_path / "shell"
    shell.mkdir()
    assert job["entrypoint"].startswith("exec ")
    arguments = _as_a_shell_reads(job["entrypoint"], shell)
    assert arguments[:3] == ["-m", "pld_grid", "run"]
    named = arguments[3 : 3 + len(grids)]
    assert [name.removeprefix("./") for name in named] == grids
    assert not [name for name in named if name.startswith("-")]
    options = dict(zip(arguments[3 + len(grids) :: 2], arguments[4 + len(grids) :: 2], strict=True))
    assert options["--profile"] == "./-p/own.yaml"
    assert {name: options[name] for name in given[::2]} == dict(zip(given[::2], given[1::2], strict=True))
    # And the files are there under these names.
    (package,) = dashboard.packages
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        assert set(grids) <= set(archive.namelist())


def test_a_job_holds_no_secret_of_its_submitters_environment(tmp_path: Path, dashboard: Dashboard) -> None:
    service = Service(tmp_path)
    service.environment |= IN_ENVIRONMENT | {"RAY_AUTH_MODE": "token"}
    places = ("--store", "s3://shared/runs@2026", "--tracking-uri", "http://mlflow:5000")
    _, err = service.run("submit", "--address", dashboard.address, *places)
    assert len(dashboard.jobs) == 1
    with zipfile.ZipFile(io.BytesIO(dashboard.packages[0])) as archive:
        everything = [dashboard.everything, err.encode(), *(archive.read(name) for name in archive.namelist())]
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
def test_a_password_in_a_uri_is_refused_as_a_jobs_command_is_read_by_all(
    tmp_path: Path, dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch, flag: str, uri: str, shown: str
) -> None:
    Service(tmp_path)
    monkeypatch.chdir(tmp_path)
    places = {"--store": "/shared", "--tracking-uri": "http://mlflow:5000"} | {flag: uri}
    with pytest.raises(InputError, match=f"{flag}: a job's command can be read by all; leave") as refused:
        jobs.submit(["losses.yaml"], "tiny.yaml", Workspace(*places.values()), address=dashboard.address)
    assert f" {shown} " in str(refused.value)
    assert "ter2" not in str(refused.value)
    assert dashboard.jobs == []
