"""Time training beside an MLflow that is healthy, down, slow, faulty or losing its database, and without MLflow.

    .venv/bin/python benchmarks/mirror.py [--rounds 3] [--only PostgreSQL]

Every contender runs the same grid once per round, in turn, with `pld-grid run` in an empty store. Training is the time
from the first cell's start to the last one's end, by their receipts; the command's own time includes imports, Ray, and
the wait for MLflow at the end, which is bounded. A server shares this machine's cores with the training, and so do the
driver's import of MLflow and its requests. Of the rounds the least counts: whatever else goes on only adds.

The server whose PostgreSQL restarts again and again needs its programs, and `pip install -e ".[test]"`.
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

from _measure import Goal, last_line

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from cli_process import isolated
from mlflow_proxy import proxy
from mlflow_servers import plain_server

from pld_grid.store import Store
from pld_grid.track.database import prepare_database

GRID = """
cells:
  student: [MobileNetV4 Conv Small]
  loss: ce
  optimizer: [lamb, adamw]
  epochs: 60
  seed: [0, 1, 2, 3]
"""
CLOSED = "http://127.0.0.1:9"
RUN = "from pld_grid.cli import script; script()"
NO_MIRROR = "from pld_grid.track.background_sync import BackgroundSync; BackgroundSync.start = lambda self: None; "
NONE, SERVER = "no mirror at all", "server, healthy"
FAULTY = ("server, down", "server, 10 s an answer", "server, always 500", "server, always 403")
ON_POSTGRES, RESTARTING = "server, PostgreSQL healthy", "server, PostgreSQL restarting"
UP_SECONDS, DOWN_SECONDS = 5.0, 2.0  # of PostgreSQL
LIMIT = 1.05


class Bench:
    """A folder with one subfolder for each run."""

    def __init__(self, folder: Path, uris: dict[str, str]) -> None:
        self.folder, self.uris = folder, uris
        (folder / "home").mkdir(exist_ok=True)
        (folder / "mirror.yaml").write_text(GRID)
        self.number = 0

    def run(self, name: str) -> tuple[float, float]:
        """Run a contender; return the seconds of training and of the whole command."""
        self.number += 1
        here = self.folder / f"run{self.number}"
        here.mkdir()
        shutil.copy(self.folder / "empty.db", here / "mlflow.db")
        uri = self.uris.get(name, f"sqlite:///{here / 'mlflow.db'}")
        code = NO_MIRROR + RUN if name == NONE else RUN
        command = [sys.executable, "-c", code, "run", "mirror.yaml", "--profile", "digits"]
        command += ["--store", str(here / "store"), "--tracking-uri", uri, "--experiment", here.name]
        started = time.perf_counter()
        done = subprocess.run(
            command, cwd=self.folder, env=isolated(self.folder / "home"), capture_output=True, text=True
        )
        seconds = time.perf_counter() - started
        if done.returncode != 0:
            sys.exit(f"{name}: {done.stderr[-2000:]}")
        store = Store(here / "store")
        provenances = [receipt.provenance for i in store.cell_ids() if (receipt := store.receipt(i)) is not None]
        return max(each.ended for each in provenances) - min(each.started for each in provenances), seconds


def _has_postgres() -> bool:
    modules = all(importlib.util.find_spec(name) for name in ("psycopg", "pytest"))
    return modules and any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@contextmanager
def on_postgres(folder: Path) -> Iterator[tuple[str, Callable[[], AbstractContextManager[None]]]]:
    """Yield the URI of a server, and a context in which its PostgreSQL restarts repeatedly."""
    import servers
    from restartable import Restartable

    @contextmanager
    def restarts() -> Iterator[None]:
        over = threading.Event()

        def restart() -> None:
            while not over.wait(UP_SECONDS):
                unstable.stop()
                over.wait(DOWN_SECONDS)
                unstable.start()

        thread = threading.Thread(target=restart)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    with servers.postgres() as postgres:
        database, unstable = postgres.create("restarting"), Restartable(postgres)
        try:
            prepare_database(postgres.uri("restarting", postgres.password))
            folder.mkdir()
            with plain_server(folder, database, {"PGPASSWORD": postgres.password}) as server:
                yield server.uri, restarts
        finally:
            # `servers.postgres` ends the first process, not the restarted one.
            unstable.stop()


def measure(rounds: int, only: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return the least seconds of training and of the command, by contender."""
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="pld_grid-bench-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        prepare_database(f"sqlite:///{folder / 'empty.db'}")
        shutil.copy(folder / "empty.db", folder / "server.db")
        server = stack.enter_context(plain_server(folder, f"sqlite:///{folder / 'server.db'}"))
        healthy, *faulty = (stack.enter_context(proxy(server.uri, delay=10)) for _ in range(4))
        for each, fault in zip(faulty, ("slow", "500", "403"), strict=True):
            each.always(fault)
        uris = dict(zip((SERVER, *FAULTY), (healthy.uri, CLOSED, *(each.uri for each in faulty)), strict=True))
        meanwhile: dict[str, Callable[[], AbstractContextManager[None]]] = {}
        if _has_postgres():
            uris[ON_POSTGRES], meanwhile[RESTARTING] = stack.enter_context(on_postgres(folder / "postgres"))
            uris[RESTARTING] = uris[ON_POSTGRES]
        else:
            print(f"{RESTARTING}: not measured: it needs PostgreSQL and the packages for tests", file=sys.stderr)
        bench = Bench(folder, uris)
        names = [NONE, *(name for name in ("sqlite, embedded", *uris) if only in name)]
        times_by_name: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for number in range(rounds):
            for name in names:
                with meanwhile.get(name, nullcontext)():
                    times_by_name[name].append(bench.run(name))
                print(f"round {number + 1}: {name} {times_by_name[name][-1][0]:.1f} s", file=sys.stderr, flush=True)
    training = {name: min(each[0] for each in times) for name, times in times_by_name.items()}
    return training, {name: min(each[1] for each in times) for name, times in times_by_name.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="only contenders with this in their name, besides none at all")
    arguments = parser.parse_args()
    training, command = measure(arguments.rounds, arguments.only)
    print(f"{'MLflow':30} {'training, s':>12} {'of none':>9} {'command, s':>11}")
    for name, seconds in training.items():
        print(f"{name:30} {seconds:12.1f} {seconds / training[NONE]:9.3f} {command[name]:11.1f}")
    faulty = [name for name in (*FAULTY, RESTARTING) if name in training]
    goals = [Goal(f"{name}: training / without a mirror", training[name] / training[NONE], LIMIT) for name in faulty]
    last_line("mirror", goals, training=training, command=command)


if __name__ == "__main__":
    main()
