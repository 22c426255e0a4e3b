"""The health check's questions, put to a server that gives wrong answers; real ones are in test_container_commands."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from processes import ask, environment
from recipes import dockerfile, health_command, last

NODE, JOBS = "/api/healthz", "/api/jobs/"
EXPERIMENTS = "/api/2.0/mlflow/experiments/search"
Serve = Callable[[dict[str, tuple[int, Any]]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that gives these answers by path and writes down what it was asked."""
    servers: list[ThreadingHTTPServer] = []

    def start(answers: dict[str, tuple[int, Any]]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, body = answers.get(self.path, (404, "no such path"))
                content = (body if isinstance(body, str) else json.dumps(body)).encode()
                expected = answers.get("authorization")
                if expected and self.headers.get("Authorization") != expected[1]:
                    status, content = 401, b"who are you?"
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _health(tmp_path: Path, *questions: str, **variables: str) -> tuple[int, str]:
    # The program that the image starts.
    health = health_command(last(dockerfile()[1], "cpu", "HEALTHCHECK") or "")[:2]
    done = ask([*health, *questions], environment(tmp_path / "home", variables))
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("question", "path", "answer", "said"),
    [
        ("ray-node", NODE, (200, "raylet: success\ngcs: success (no local gcs)"), None),
        ("ray-node", NODE, (503, "raylet: dead\ngcs: success"), "503 raylet: dead gcs: success"),
        ("ray-node", NODE, (200, "raylet: success\ngcs: GCS health check failed."), "gcs: GCS health check failed."),
        ("ray-node", NODE, (200, ""), "no answer"),
        ("ray-jobs", JOBS, (200, []), None),
        ("ray-jobs", JOBS, (200, {}), "this is no list of jobs"),
        ("ray-jobs", JOBS, (200, "<html>"), "the answer is not JSON"),
        ("ray-jobs", JOBS, (500, "GCS"), "500 GCS"),
        ("mlflow", EXPERIMENTS, (200, {"experiments": [{"name": "Default"}]}), None),
        ("mlflow", EXPERIMENTS, (200, {}), "no experiment was found"),
        ("mlflow", EXPERIMENTS, (200, []), "no experiment was found"),
        ("mlflow", EXPERIMENTS, (403, "Invalid Host header"), "403 Invalid Host header"),
    ],
)
def test_wrong_answers_are_told_from_right_ones(
    tmp_path: Path, serve: Serve, question: str, path: str, answer: tuple[int, Any], said: str | None
) -> None:
    url = serve({path: answer, "/health": (200, "OK")})
    expected = (0, "") if said is None else (1, f"{question} at {url}: {said}\n")
    assert _health(tmp_path, f"{question}={url}") == expected


def test_every_question_must_be_answered(tmp_path: Path, serve: Serve) -> None:
    url = serve({NODE: (200, "raylet: success"), JOBS: (500, "not today")})
    code, said = _health(tmp_path, f"ray-node={url}", f"ray-jobs={url}")
    assert (code, said) == (1, f"ray-jobs at {url}: 500 not today\n")


def test_nobody_there_is_unhealthy(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for question in ("ray-node", "ray-jobs", "mlflow"):
        code, said = _health(tmp_path, f"{question}={url}")
        assert code == 1
        assert "Connection refused" in said
        assert said.count("\n") == 1


@pytest.mark.parametrize("arguments", [(), ("mlflow",), ("mlflow=",), ("mflow=http://127.0.0.1:5000",)])
def test_questions_that_do_not_exist_are_a_mistake(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert _health(tmp_path, *arguments) == (
        2, "usage: health.py QUESTION=URL ...; questions: ray-node, ray-jobs, mlflow\n",
    )  # fmt: skip


def test_tokens_and_passwords_come_from_the_usual_variables(tmp_path: Path, serve: Serve) -> None:
    secret = tmp_path / "token"
    secret.write_text("abc\n")
    url = serve({JOBS: (200, []), "authorization": (0, "Bearer abc")})
    assert _health(tmp_path, f"ray-jobs={url}", RAY_AUTH_TOKEN="abc") == (0, "")
    assert _health(tmp_path, f"ray-jobs={url}", RAY_AUTH_TOKEN_PATH=str(secret)) == (0, "")
    assert _health(tmp_path, f"ray-jobs={url}", RAY_AUTH_TOKEN="x")[0] == 1
    code, said = _health(tmp_path, f"ray-jobs={url}", RAY_AUTH_TOKEN_PATH=str(tmp_path / "gone"))
    assert (code, said) == (1, f"ray-jobs at {url}: {tmp_path / 'gone'}: No such file or directory\n")
    url = serve({EXPERIMENTS: (200, {"experiments": [{}]}), "authorization": (0, "Basic dXNlcjpwYXNz")})
    assert _health(tmp_path, f"mlflow={url}", MLFLOW_TRACKING_USERNAME="user", MLFLOW_TRACKING_PASSWORD="pass") == (
        0, "",
    )  # fmt: skip
    assert _health(tmp_path, f"mlflow={url}")[0] == 1
