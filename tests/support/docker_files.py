"""Read docker/ as data: the stages of the Dockerfile, compose files and Kubernetes manifests."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from paths import ROOT

DOCKER = ROOT / "docker"
# ${NAME}, ${NAME:-default}, ${NAME:?message} and $$, as Compose reads them.
_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?:(?P<how>:?[-?])(?P<rest>[^}]*))?\})")


@dataclass
class Stage:
    """A build stage with its instructions in order, as (word, rest)."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [rest for name, rest in self.instructions if name == word]


def read_dockerfile() -> tuple[dict[str, str], dict[str, Stage]]:
    """Return the global ARGs with their defaults, and the stages by name."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for line in filter(None, (line.strip() for line in text.replace("\\\n", " ").splitlines())):
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = stages[name] = Stage(name, base)
        elif stage is None:
            assert word == "ARG", f"{word} before the first FROM"
            name, _, default = rest.partition("=")
            arguments[name] = default
        else:
            stage.instructions.append((word, rest))
    return arguments, stages


def resolve_stages(stages: Mapping[str, Stage], target: str) -> list[Stage]:
    """Return the stages that a target consists of, the outermost base first."""
    chain = [stages[target]]
    while chain[0].base in stages:
        chain.insert(0, stages[chain[0].base])
    return chain


def last_instruction(stages: Mapping[str, Stage], target: str, word: str) -> str | None:
    """Return the value of the last instruction of a kind in a target; None if there is none."""
    values = [rest for stage in resolve_stages(stages, target) for rest in stage.all(word)]
    return values[-1] if values else None


def parse_exec_form(text: str) -> list[str]:
    """Return the arguments of a CMD in its exec form."""
    command = json.loads(text)
    assert isinstance(command, list)
    return [str(part) for part in command]


def health_command(text: str) -> list[str]:
    """Return the command of a Dockerfile's HEALTHCHECK."""
    return parse_exec_form(text[text.index("CMD ") + 4 :])


def compose(environment: Mapping[str, str], name: str = "compose.yaml") -> dict[str, Any]:
    """Return a compose file with its variables substituted. A required variable that is missing is an error."""

    def fill(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        value, how = environment.get(match["name"]), match["how"] or ""
        if value is None or (how.startswith(":") and not value):
            assert "?" not in how, f"{match['name']}: {match['rest']}"
            return match["rest"] or ""
        return value

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(part) for key, part in value.items()}
        if isinstance(value, list):
            return [filled(part) for part in value]
        return _VARIABLE.sub(fill, value) if isinstance(value, str) else value

    loaded: dict[str, Any] = filled(yaml.safe_load((DOCKER / name).read_text()))
    return loaded


def read_manifests() -> list[dict[str, Any]]:
    """Return all Kubernetes objects."""
    files = sorted((DOCKER / "kuberay").glob("*.yaml"))
    return [document for path in files for document in yaml.safe_load_all(path.read_text())]


def find_manifest(kind: str) -> dict[str, Any]:
    """Return the only object of a kind."""
    (manifest,) = (each for each in read_manifests() if each["kind"] == kind)
    return manifest


def pods(cluster: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the pod specs of a RayClusterSpec: "head", and the worker groups by name."""
    groups = {group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"]["spec"], **groups}


def ray_start_command(group: Mapping[str, Any], *, head: bool) -> list[str]:
    """Return the command that KubeRay v1.7.0 generates for a group; its container gives what rayStartParams omits."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    parameters = {
        **({"dashboard-host": "0.0.0.0"} if head else {"address": "pld-grid-head-svc:6379"}),
        "metrics-export-port": "8080",
        "dashboard-agent-listen-port": "52365",
        "num-cpus": limits["cpu"],
        "memory": str(int(limits["memory"].removesuffix("Gi")) * 2**30),
        **({"num-gpus": limits["nvidia.com/gpu"]} if "nvidia.com/gpu" in limits else {}),
        **group["rayStartParams"],
    }
    flags = [f"--{name}={value}" for name, value in parameters.items()]
    return ["ray", "start", *(["--head"] if head else []), *flags, "--block"]


def job_submit_command(job: Mapping[str, Any], address: str, submission_id: str) -> list[str]:
    """Return the `ray job submit` command that KubeRay v1.7.0 generates for a RayJob."""
    runtime = json.dumps(yaml.safe_load(job["spec"]["runtimeEnvYAML"]))
    submit = ["ray", "job", "submit", "--address", address, "--runtime-env-json", runtime]
    return [*submit, "--submission-id", submission_id, "--", *shlex.split(job["spec"]["entrypoint"])]


def unknown_fields(value: Any, known: Mapping[str, Any], links: Mapping[str, str], at: str) -> Iterator[str]:
    """Yield the fields of a document, also within lists, that are not published; see published_fields.yaml."""
    if isinstance(value, list):
        for part in value:
            yield from unknown_fields(part, known, links, at)
    elif isinstance(value, dict):
        at = links.get(at, at)
        names = known.get(at)
        if names is None:
            yield f"{at} has no fields"
        elif names == "each":
            yield from unknown_fields(list(value.values()), known, links, f"{at}.*")
        elif names != "any":
            for key, part in value.items():
                if key in names:
                    yield from unknown_fields(part, known, links, f"{at}.{key}")
                else:
                    yield f"{at}.{key}"
