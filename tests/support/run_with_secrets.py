"""Run a grid with secrets in all its settings, and record its processes, files and output."""

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
from cli_process import RETRY_TIMEOUT_SECONDS, Service, wait_for_line
from live_processes import list_descendants, listening_addresses, process_command, process_name

# Environment variables; each value is unique, so that a search finds it.
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

# A file system with user and password in its URI, like FTP, on a local folder.
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
class SecretRun:
    """A run that has ended: its output, and the state of Ray while it ran."""

    service: Service
    output: str = ""
    listening: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    commands: list[list[str]] = field(default_factory=list)
    ray_files: dict[Path, bytes] = field(default_factory=dict)
    ray_modes: dict[Path, int] = field(default_factory=dict)
    response_without_token: str = ""

    def inspect(self, process: "subprocess.Popen[str]", ray: Path) -> None:
        """Record a run's open ports, command lines and Ray's files, while the driver is stopped."""
        process.send_signal(signal.SIGSTOP)
        try:
            for each in (psutil.Process(process.pid), *list_descendants(process)):
                self.listening.setdefault(process_name(each), set()).update(listening_addresses(each))
                self.commands.append(process_command(each))
            # Only once: at the last call Ray may be ending.
            if not self.response_without_token:
                (gcs,) = {port for _, port in self.listening["gcs_server"]}
                self.response_without_token = _request_without_token(gcs)
            for path in (Path(folder, inner) for folder, *names in os.walk(ray) for inner in chain(*names)):
                # Ray is running and may remove files.
                with suppress(FileNotFoundError):
                    self.ray_modes[path.relative_to(ray)] = path.lstat().st_mode
                    if path.is_file() and not path.is_symlink():
                        self.ray_files[path.relative_to(ray)] = path.read_bytes()
        finally:
            process.send_signal(signal.SIGCONT)


def run_with_secrets(folder: Path) -> SecretRun:
    """Run a grid with a report. Store and MLflow have passwords in their URIs; MLflow is away and synced later.

    All its files are in `folder/run`.
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
    watched = SecretRun(service)
    mask = os.umask(0o027)
    process = service.start("run", "--report", "tables", "--show")
    try:
        for cell in (1, 3):
            watched.output += wait_for_line(process, f"[{cell}/3] finished")
            watched.inspect(process, ray)
        watched.output += "".join(process.communicate(timeout=RETRY_TIMEOUT_SECONDS))
        assert "3 cells trained" in watched.output
        database = ("--tracking-uri", f"sqlite:///{service.folder / 'mlflow.db'}")
        for command in (
            ("sync", *database),
            ("report", *database, "--from", "mlflow", "--out", "from-mlflow"),
            ("calibrate",),
            ("why", watched.output.split()[2], "--profile", "tiny.yaml"),
            ("run", "--store", f"ftp://user:{STORE_PASSWORD}@127.0.0.1:9/x"),
        ):
            streams = service.start(*command).communicate(timeout=RETRY_TIMEOUT_SECONDS)
            watched.output += "".join(streams)
        return watched
    finally:
        os.umask(mask)
        if process.poll() is None:
            process.kill()
            process.wait()
        shutil.rmtree(ray, ignore_errors=True)


def _request_without_token(port: int) -> str:
    """Return the gRPC status that Ray's control service sends to a client without a token."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")(b"", timeout=60)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


def spellings(secret: str) -> dict[str, bytes]:
    """Return the forms in which a secret may be written: plain, in a page, in a URI, in a header."""
    return {
        "plain": secret.encode(),
        "in a page": html.escape(secret).encode(),
        "in a URI": urllib.parse.quote(secret, safe="").encode(),
        # base64 encodes three bytes at a time: one of three starts matches, whatever precedes the secret.
        **{f"base64 at {skip}": base64.b64encode(secret[skip:].encode())[:-4] for skip in range(3)},
    }
