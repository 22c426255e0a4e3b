"""Check the health of services: `health.py CHECK=URL ...`; exit code 0 if every service is healthy.

ray-node=http://127.0.0.1:52365   a Ray node's agent: its raylet is alive, and on the head the GCS
ray-jobs=http://HEAD:8265         the head's dashboard lists jobs, with the cluster's token
mlflow=http://mlflow:5000         MLflow finds experiments, which needs its database and an allowed host name

MLflow's own /health answers 200 even when the database is gone or every request is refused for its host name. Tokens
and passwords come from the environment variables that Ray and MLflow read. This file uses the standard library only: it
runs every few seconds, and importing Ray takes seconds.
"""

import base64
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Shorter than the timeout of the whole check in Docker and Kubernetes.
TIMEOUT_SECONDS = 8.0


class Unhealthy(Exception):
    """A service is not healthy; the message is one line."""


def ray_node(url: str) -> None:
    """Raise Unhealthy unless the agent reports success for everything that it checks."""
    answers = _request(f"{url}/api/healthz").decode().splitlines()
    bad = [line for line in answers if ": success" not in line]
    if bad or not answers:
        raise Unhealthy("; ".join(bad) or "no answer")


def ray_jobs(url: str) -> None:
    """Raise Unhealthy unless the dashboard lists jobs, which it reads from the GCS."""
    if not isinstance(_json(_request(f"{url}/api/jobs/", headers=_ray_token())), list):
        raise Unhealthy("the answer is not a list of jobs")


def mlflow(url: str) -> None:
    """Raise Unhealthy unless MLflow finds an experiment; it creates one itself in a new database."""
    request = json.dumps({"max_results": 1}).encode()
    answer = _json(_request(f"{url}/api/2.0/mlflow/experiments/search", request, _basic_authentication()))
    if not isinstance(answer, dict) or not answer.get("experiments"):
        raise Unhealthy("no experiment was found")


CHECKS: dict[str, Callable[[str], None]] = {"ray-node": ray_node, "ray-jobs": ray_jobs, "mlflow": mlflow}


def _request(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            answer: bytes = response.read()
    except urllib.error.HTTPError as error:
        with error:
            body_text = error.read(200).decode(errors="replace")
        raise Unhealthy(f"{error.code} {' '.join(body_text.split())}") from None
    except (OSError, ValueError) as error:
        raise Unhealthy(str(error)) from None
    return answer


def _json(answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except ValueError:
        raise Unhealthy("the answer is not JSON") from None


def _ray_token() -> dict[str, str]:
    token, path = os.environ.get("RAY_AUTH_TOKEN"), os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not token and path:
        try:
            token = Path(path).read_text().strip()
        except OSError as error:
            raise Unhealthy(f"{path}: {error.strerror}") from None
    return {"Authorization": f"Bearer {token}"} if token else {}


def _basic_authentication() -> dict[str, str]:
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
    if not user or password is None:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def main(arguments: list[str]) -> int:
    """Run every check. Return the exit code: 0 healthy, 1 not healthy, 2 for an unknown check."""
    checks = [argument.partition("=") for argument in arguments]
    if not checks or any(name not in CHECKS or not url for name, _, url in checks):
        print(f"usage: health.py CHECK=URL ...; checks: {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    for name, _, url in checks:
        try:
            CHECKS[name](url.rstrip("/"))
        except Unhealthy as error:
            print(f"{name} at {url}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
