"""One real run with secrets everywhere: where it listens, who may read its files, and whom it tells a secret."""

import re
import sqlite3
import stat
from pathlib import Path

import pytest
from watching import SECRETS, Watched, spellings, watch

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    return watch(tmp_path_factory.mktemp("watched"))


def _files(watched: Watched) -> dict[str, bytes]:
    """All that the run wrote anywhere, with what it said and how its processes were started."""
    folder = watched.service.folder
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found |= {f"ray/{path}": data for path, data in watched.ray_files.items()}
    found["what it said"] = watched.said.encode()
    found["command lines"] = "\n".join(" ".join(command) for command in watched.commands).encode()
    return found


def test_the_search_looks_where_secrets_could_be(watched: Watched) -> None:
    names = _files(watched)
    for pattern in (
        r"drive/[0-9a-f]{16}/receipt\.json", r"drive/[0-9a-f]{16}/cell\.json", r"drive/submissions/.*\.json",
        r"mlflow\.db", r"mlartifacts/.*receipt\.json", r"tables/index\.html", r"from-mlflow/records\.jsonl",
        r"ray/.*/raylet\.out", r"ray/.*/worker-.*\.(out|err)", r"ray/.*/gcs_server\.out",
    ):  # fmt: skip
        assert any(re.fullmatch(pattern, name) for name in names), (pattern, sorted(names))
    with sqlite3.connect(watched.service.folder / "mlflow.db") as database:
        assert database.execute("select count(*) from runs").fetchone()[0] == 3 + 1
    for said in ("cannot be reached", "error: store ftp://127.0.0.1:9/x: "):
        assert said in watched.said
    assert any("raylet" in " ".join(command) for command in watched.commands)


@pytest.mark.parametrize("place", SECRETS)
def test_no_secret_is_told(watched: Watched, place: str) -> None:
    told = [
        (name, how)
        for name, data in _files(watched).items()
        for how, text in spellings(SECRETS[place]).items()
        if text in data
    ]
    assert told == []


def test_a_run_listens_on_loopback_alone(watched: Watched) -> None:
    assert {"gcs_server", "raylet"} <= watched.listening.keys()
    open_to_others = {
        (name, *place) for name, places in watched.listening.items() for place in places if place[0] not in LOOPBACK
    }
    assert open_to_others == set()


def test_a_run_answers_nobody_without_its_token(watched: Watched) -> None:
    """Other users of the machine reach loopback too."""
    assert watched.strangers_get == "UNAUTHENTICATED"


def test_a_run_has_no_dashboard(watched: Watched) -> None:
    """Ray starts its process all the same, but without pages, and nobody listens at its port."""
    assert 8265 not in {port for places in watched.listening.values() for _, port in places}
    dashboards = [command for command in watched.commands if any("dashboard/dashboard.py" in part for part in command)]
    assert all("--disable-frontend" in command for command in dashboards), dashboards


def test_others_cannot_reach_temporary_folders(watched: Watched) -> None:
    """Ray itself lets everybody write into its session's folder, where its sockets are."""
    outer = {path: mode for path, mode in watched.ray_modes.items() if len(path.parts) == 1}
    assert any(path.name.startswith("ray-") for path in outer)
    assert any(path.name.startswith("pld_grid-tune-") for path in outer)
    assert {path: oct(mode) for path, mode in outer.items() if stat.S_IMODE(mode) & 0o077} == {}


def test_what_is_written_has_the_users_own_mask(watched: Watched) -> None:
    """Started with a mask that shuts out everybody else."""
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
