"""One real run with secrets in all its settings: its open ports, file permissions, and leaked secrets."""

import re
import sqlite3
import stat
from pathlib import Path

import pytest
from run_with_secrets import SECRETS, SecretRun, run_with_secrets, spellings

pytestmark = pytest.mark.ray

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> SecretRun:
    return run_with_secrets(tmp_path_factory.mktemp("watched"))


def _files(watched: SecretRun) -> dict[str, bytes]:
    """Return all files that the run wrote, its output, and the command lines of its processes."""
    folder = watched.service.folder
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files |= {f"ray/{path}": data for path, data in watched.ray_files.items()}
    files["output"] = watched.output.encode()
    files["command lines"] = "\n".join(" ".join(command) for command in watched.commands).encode()
    return files


def test_search_covers_all_places_of_secrets(watched):
    names = _files(watched)
    for pattern in (
        r"drive/[0-9a-f]{16}/receipt\.json",
        r"drive/[0-9a-f]{16}/cell\.json",
        r"drive/submissions/.*\.json",
        r"mlflow\.db",
        r"mlartifacts/.*receipt\.json",
        r"tables/index\.html",
        r"from-mlflow/records\.jsonl",
        r"ray/.*/raylet\.out",
        r"ray/.*/worker-.*\.(out|err)",
        r"ray/.*/gcs_server\.out",
    ):
        assert any(re.fullmatch(pattern, name) for name in names), (pattern, sorted(names))
    with sqlite3.connect(watched.service.folder / "mlflow.db") as database:
        assert database.execute("select count(*) from runs").fetchone()[0] == 3 + 1
    for text in ("cannot be reached", "error: store ftp://127.0.0.1:9/x: "):
        assert text in watched.output
    assert any("raylet" in " ".join(command) for command in watched.commands)


@pytest.mark.parametrize("place", SECRETS)
def test_run_leaks_no_secret(watched, place):
    leaks = [
        (name, how)
        for name, data in _files(watched).items()
        for how, text in spellings(SECRETS[place]).items()
        if text in data
    ]
    assert leaks == []


def test_run_listens_on_loopback_only(watched):
    assert {"gcs_server", "raylet"} <= watched.listening.keys()
    open_to_others = {
        (name, *place) for name, places in watched.listening.items() for place in places if place[0] not in LOOPBACK
    }
    assert open_to_others == set()


def test_run_rejects_requests_without_token(watched):
    """Other users of the machine reach loopback too."""
    assert watched.response_without_token == "UNAUTHENTICATED"


def test_run_has_no_dashboard(watched):
    """Ray starts the dashboard's process, but without pages and without its port."""
    assert 8265 not in {port for places in watched.listening.values() for _, port in places}
    dashboards = [command for command in watched.commands if any("dashboard/dashboard.py" in part for part in command)]
    assert all("--disable-frontend" in command for command in dashboards), dashboards


def test_temporary_folders_are_private(watched):
    """Ray makes its session folder, with its sockets, writable for everyone."""
    outer = {path: mode for path, mode in watched.ray_modes.items() if len(path.parts) == 1}
    assert any(path.name.startswith("ray-") for path in outer)
    assert any(path.name.startswith("pld_grid-tune-") for path in outer)
    assert {path: oct(mode) for path, mode in outer.items() if stat.S_IMODE(mode) & 0o077} == {}


def test_files_follow_the_users_umask(watched):
    """The umask of the run excludes other users."""
    folder = watched.service.folder
    written = [
        path
        for part in ("drive", "tables", "from-mlflow", "mlartifacts", "mlflow.db")
        for path in (folder / part, *(folder / part).rglob("*"))
    ]
    assert len(written) > 50
    modes: dict[str, set[Path]] = {}
    for path in written:
        modes.setdefault(f"{stat.S_IMODE(path.lstat().st_mode) & 0o007:o}", set()).add(path)
    assert set(modes) == {"0"}, modes
