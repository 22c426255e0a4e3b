"""A grid that runs with secrets in all places where people keep them, and what was seen of it."""

import base64
import html
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.parse
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import grpc
import psutil
from living import command, family, listening, name
from service import PATIENCE, Service, wait_for_line

# In the environment of whoever starts a grid; each is found by searching for its value.
IN_ENVIRONMENT = {
    "MLFLOW_TRACKING_USERNAME": "mlflowuser-6f1d0c57",
    "MLFLOW_TRACKING_PASSWORD": "mlflow?pass&6f1d0c58",
    "AWS_ACCESS_KEY_ID": "AKIA6F1D0C59",
    "AWS_SECRET_ACCESS_KEY": "aws/secret+6f1d0c60",
    "RAY_AUTH_TOKEN": "ray-token-6f1d0c61-of-somebody-elses-cluster",
    "HF_TOKEN": "hf_6f1d0c62",
    "PGPASSWORD": "postgres-6f1d0c63",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "flask-6f1d0c64",
}
# In the URIs of the store and of MLflow.
STORE_PASSWORD = "store-6f1d0c65"
MLFLOW_PASSWORD = "uri-6f1d0c66"
SECRETS = {**IN_ENVIRONMENT, "the store's URI": STORE_PASSWORD, "MLflow's URI": MLFLOW_PASSWORD}

# A file system whose URI carries a user and a password, as FTP's does, on a folder of this machine.
DRIVE = """
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import register_implementation
from urllib.parse import urlsplit


class Drive(LocalFileSystem):
    protocol = "drive"

    def __init__(self, password="", **options):
        assert password == "PASSWORD"
        super().__init__(auto_mkdir=True, **options)

    @staticmethod
    def _get_kwargs_from_urls(path):
        return {"password": urlsplit(path).password}

    @classmethod
    def _strip_protocol(cls, path):
        return urlsplit(str(path)).path.rstrip("/") if "://" in str(path) else str(path)
"""
GRID = """
cells: {teacher: big, student: small, epochs: 2, loss: [ce, kd]}
"""


@dataclass
class Watched:
    """A run that has ended, and what was seen of it: all that was said, and what Ray had while it lived."""

    service: Service
    said: str = ""
    listening: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    commands: list[list[str]] = field(default_factory=list)
    ray_files: dict[Path, bytes] = field(default_factory=dict)
    ray_modes: dict[Path, int] = field(default_factory=dict)
    strangers_get: str = ""

    def look(self, process: "subprocess.Popen[str]", ray: Path) -> None:
        """Notes what a run's processes listen at and were started with, and Ray's files, while the driver stands."""
        process.send_signal(signal.SIGSTOP)
        try:
            for each in (psutil.Process(process.pid), *family(process)):
                self.listening.setdefault(name(each), set()).update(listening(each))
                self.commands.append(command(each))
            # Once: at the last look Ray may be about to end.
            if not self.strangers_get:
                (gcs,) = {port for _, port in self.listening["gcs_server"]}
                self.strangers_get = _asked_by_a_stranger(gcs)
            for path in (Path(folder, inner) for folder, *names in os.walk(ray) for inner in chain(*names)):
                # Ray goes on, and its files may go.
                with suppress(FileNotFoundError):
                    self.ray_modes[path.relative_to(ray)] = path.lstat().st_mode
                    if path.is_file() and not path.is_symlink():
                        self.ray_files[path.relative_to(ray)] = path.read_bytes()
        finally:
            process.send_signal(signal.SIGCONT)


def watch(folder: Path) -> Watched:
    """Runs a grid with a report, whose store and MLflow have passwords in their URIs; MLflow is away and follows later.

    Everything that it leaves lies in `folder/run`.
    """
    service, code = Service(folder / "run", grid=GRID), folder / "python"
    code.mkdir()
    (code / "drive.py").write_text(DRIVE.replace("PASSWORD", STORE_PASSWORD))
    (code / "sitecustomize.py").write_text(
        'from fsspec.registry import register_implementation\nregister_implementation("drive", "drive.Drive")\n'
    )
    # Ray's sockets need short paths.
    ray = Path(tempfile.mkdtemp(prefix="pldray-", dir="/tmp"))
    service.environment |= IN_ENVIRONMENT | {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(code), os.environ.get("PYTHONPATH")))),
        "RAY_TMPDIR": str(ray),
        "TMPDIR": str(ray),
        "PLD_GRID_STORE": f"drive://user:{STORE_PASSWORD}@host{service.folder}/drive",
        "MLFLOW_TRACKING_URI": f"http://user:{MLFLOW_PASSWORD}@127.0.0.1:9",
    }
    found = Watched(service)
    mask = os.umask(0o027)
    process = service.start("run", "--report", "tables", "--show")
    try:
        for cell in (1, 3):
            found.said += wait_for_line(process, f"[{cell}/3] finished")
            found.look(process, ray)
        found.said += "".join(process.communicate(timeout=PATIENCE))
        assert "3 cells trained" in found.said
        database = ("--tracking-uri", f"sqlite:///{service.folder / 'mlflow.db'}")
        for command in (
            ("sync", *database),
            ("report", *database, "--from", "mlflow", "--out", "from-mlflow"),
            ("calibrate",),
            ("why", found.said.split()[2], "--profile", "tiny.yaml"),
            ("run", "--store", f"ftp://user:{STORE_PASSWORD}@127.0.0.1:9/x"),
        ):
            said = service.start(*command).communicate(timeout=PATIENCE)
            found.said += "".join(said)
        return found
    finally:
        os.umask(mask)
        if process.poll() is None:
            process.kill()
            process.wait()
        shutil.rmtree(ray, ignore_errors=True)


def _asked_by_a_stranger(port: int) -> str:
    """What Ray's control service answers to somebody without a token: a gRPC status."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")(b"", timeout=60)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


def spellings(secret: str) -> dict[str, bytes]:
    """A secret as it may be written: plain, in a URI, in a header, in a JSON or Python text."""
    return {
        "plain": secret.encode(),
        "in a page": html.escape(secret).encode(),
        "in a URI": urllib.parse.quote(secret, safe="").encode(),
        # Of three beginnings one stands at a multiple of three bytes, whatever is before it.
        **{f"base64 at {skip}": base64.b64encode(secret[skip:].encode())[:-4] for skip in range(3)},
    }
