"""Health checks that ask for a real answer: `health.py QUESTION=URL ...`; exit code 0 if every answer is right.

ray-node=http://127.0.0.1:52365   a Ray node's agent: does its raylet live, and on the head the GCS
ray-jobs=http://HEAD:8265         the head's dashboard: list the jobs, with the cluster's token
mlflow=http://mlflow:5000         MLflow: search experiments, hence the database, and under the name that clients use

MLflow's own /health answers 200 even when the database is gone or every request is refused for its host name. Tokens
and passwords come from the variables that Ray and MLflow read themselves. Standard library only: Ray takes seconds to
import, and this is asked every few seconds.
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

TIMEOUT = 8.0  # seconds, less than the time that Docker and Kubernetes give the whole check


class Unhealthy(Exception):
    """What is wrong, in one line."""


def ray_node(url: str) -> None:
    """Raises Unhealthy unless the agent says success for all that it checked."""
    answers = _ask(f"{url}/api/healthz").decode().splitlines()
    bad = [line for line in answers if ": success" not in line]
    if bad or not answers:
        raise Unhealthy("; ".join(bad) or "no answer")


def ray_jobs(url: str) -> None:
    """Raises Unhealthy unless the dashboard lists jobs, which it looks up in the GCS."""
    if not isinstance(_json(_ask(f"{url}/api/jobs/", headers=_ray_token())), list):
        raise Unhealthy("this is no list of jobs")


def mlflow(url: str) -> None:
    """Raises Unhealthy unless MLflow finds an experiment: it makes one itself when its database is new."""
    request = json.dumps({"max_results": 1}).encode()
    found = _json(_ask(f"{url}/api/2.0/mlflow/experiments/search", request, _basic_authentication()))
    if not isinstance(found, dict) or not found.get("experiments"):
        raise Unhealthy("no experiment was found")


QUESTIONS: dict[str, Callable[[str], None]] = {"ray-node": ray_node, "ray-jobs": ray_jobs, "mlflow": mlflow}


def _ask(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            answer: bytes = response.read()
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(200).decode(errors="replace")
        raise Unhealthy(f"{error.code} {' '.join(said.split())}") from None
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
    """Asks every question. Returns the exit code: 0 healthy, 1 not, 2 for questions that do not exist."""
    asked = [argument.partition("=") for argument in arguments]
    if not asked or any(name not in QUESTIONS or not url for name, _, url in asked):
        print(f"usage: health.py QUESTION=URL ...; questions: {', '.join(QUESTIONS)}", file=sys.stderr)
        return 2
    for name, _, url in asked:
        try:
            QUESTIONS[name](url.rstrip("/"))
        except Unhealthy as error:
            print(f"{name} at {url}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
