"""Health checks against a server that gives wrong answers; test_container_commands uses real services."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import loopback_server
import pytest
from container_processes import environment, run_check
from docker_files import health_command, last_instruction, read_dockerfile
from loopback_server import QuietHandler
from ports import free_port

pytestmark = pytest.mark.slow

NODE, JOBS = "/api/healthz", "/api/jobs/"
EXPERIMENTS = "/api/2.0/mlflow/experiments/search"
Serve = Callable[[dict[str, tuple[int, Any]]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts a server with these answers by path."""
    with contextlib.ExitStack() as stack:

        def start(answers: dict[str, tuple[int, Any]]) -> str:
            class Handler(QuietHandler):
                def do_GET(self) -> None:
                    self.read_body()
                    status, body = answers.get(self.path, (404, "no such path"))
                    content = (body if isinstance(body, str) else json.dumps(body)).encode()
                    expected = answers.get("authorization")
                    if expected and self.headers.get("Authorization") != expected[1]:
                        status, content = 401, b"who are you?"
                    self.send(content, status)

                do_POST = do_GET

            return stack.enter_context(loopback_server.serve(Handler))

        yield start


def _health(tmp_path: Path, *checks: str, **variables: str) -> tuple[int, str]:
    # The health check of the image.
    health = health_command(last_instruction(read_dockerfile()[1], "cpu", "HEALTHCHECK") or "")[:2]
    done = run_check([*health, *checks], environment(tmp_path / "home", variables))
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("check", "path", "answer", "message"),
    [
        ("ray-node", NODE, (200, "raylet: success\ngcs: success (no local gcs)"), None),
        ("ray-node", NODE, (503, "raylet: dead\ngcs: success"), "503 raylet: dead gcs: success"),
        ("ray-node", NODE, (200, "raylet: success\ngcs: GCS health check failed."), "gcs: GCS health check failed."),
        ("ray-node", NODE, (200, ""), "no answer"),
        ("ray-jobs", JOBS, (200, []), None),
        ("ray-jobs", JOBS, (200, {}), "the answer is not a list of jobs"),
        ("ray-jobs", JOBS, (200, "<html>"), "the answer is not JSON"),
        ("ray-jobs", JOBS, (500, "GCS"), "500 GCS"),
        ("mlflow", EXPERIMENTS, (200, {"experiments": [{"name": "Default"}]}), None),
        ("mlflow", EXPERIMENTS, (200, {}), "no experiment was found"),
        ("mlflow", EXPERIMENTS, (200, []), "no experiment was found"),
        ("mlflow", EXPERIMENTS, (403, "Invalid Host header"), "403 Invalid Host header"),
    ],
)
def test_check_judges_the_answer(tmp_path, serve, check, path, answer, message):
    url = serve({path: answer, "/health": (200, "OK")})
    expected = (0, "") if message is None else (1, f"{check} at {url}: {message}\n")
    assert _health(tmp_path, f"{check}={url}") == expected


def test_one_failed_check_makes_the_result_unhealthy(tmp_path, serve):
    url = serve({NODE: (200, "raylet: success"), JOBS: (500, "not today")})
    assert _health(tmp_path, f"ray-node={url}", f"ray-jobs={url}") == (1, f"ray-jobs at {url}: 500 not today\n")


def test_check_without_a_server_is_unhealthy(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    for check in ("ray-node", "ray-jobs", "mlflow"):
        code, message = _health(tmp_path, f"{check}={url}")
        assert code == 1
        assert "Connection refused" in message
        assert message.count("\n") == 1


@pytest.mark.parametrize("arguments", [(), ("mlflow",), ("mlflow=",), ("mflow=http://127.0.0.1:5000",)])
def test_unknown_check_prints_usage(tmp_path, arguments):
    assert _health(tmp_path, *arguments) == (2, "usage: health.py CHECK=URL ...; checks: ray-node, ray-jobs, mlflow\n")


def test_credentials_come_from_the_environment(tmp_path, serve):
    secret = tmp_path / "token"
    secret.write_text("abc\n")
    url = serve({JOBS: (200, []), "authorization": (0, "Bearer abc")})
    assert _health(tmp_path, f"ray-jobs={url}", RAY_AUTH_TOKEN="abc") == (0, "")
    assert _health(tmp_path, f"ray-jobs={url}", RAY_AUTH_TOKEN_PATH=str(secret)) == (0, "")
    assert _health(tmp_path, f"ray-jobs={url}", RAY_AUTH_TOKEN="x")[0] == 1
    code, message = _health(tmp_path, f"ray-jobs={url}", RAY_AUTH_TOKEN_PATH=str(tmp_path / "gone"))
    assert (code, message) == (1, f"ray-jobs at {url}: {tmp_path / 'gone'}: No such file or directory\n")
    url = serve({EXPERIMENTS: (200, {"experiments": [{}]}), "authorization": (0, "Basic dXNlcjpwYXNz")})
    assert _health(tmp_path, f"mlflow={url}", MLFLOW_TRACKING_USERNAME="user", MLFLOW_TRACKING_PASSWORD="pass") == (
        0,
        "",
    )
    assert _health(tmp_path, f"mlflow={url}")[0] == 1
