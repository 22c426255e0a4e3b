"""The Dockerfile: pinned versions, existing sources, no secrets, no root."""

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docker_files import (
    DOCKER,
    ROOT,
    Stage,
    health_command,
    last_instruction,
    parse_exec_form,
    read_dockerfile,
    resolve_stages,
)
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TARGETS = ["cpu", "cuda"]


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    return read_dockerfile()[1]


def _pins(path: str) -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / path).read_text().splitlines())
    pins = [Requirement(line) for line in lines if line]
    assert all(re.fullmatch(r"==[\w.]+", str(each.specifier)) for each in pins), path
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in pins}


def test_base_images_are_pinned_by_digest(stages):
    arguments, _ = read_dockerfile()
    outer = {stage.base for stage in stages.values()} - set(stages) - {"scratch"}
    assert outer == {"${PYTHON_IMAGE}"}
    image = arguments["PYTHON_IMAGE"]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}", image)
    assert "Python 3.11" in (ROOT / "constraints.txt").read_text()


@pytest.mark.parametrize("target", TARGETS)
def test_target_runs_as_a_user_that_owns_its_folders(stages, target):
    assert last_instruction(stages, target, "USER") == "1000:1000"
    # USER comes last: packages and code belong to root, so the running container cannot change them.
    assert [word for stage in resolve_stages(stages, target) for word, _ in stage.instructions].index("USER") == (
        sum(len(stage.instructions) for stage in resolve_stages(stages, target)) - 1
    )
    (making,) = (run for run in stages["base"].all("RUN") if "useradd" in run)
    assert "--uid 1000" in making
    owned = shlex.split(making.split("install -d -o 1000 -g 1000", 1)[1])
    for folder in ("/var/lib/pld_grid/store", "/var/lib/pld_grid/mlartifacts", "/data"):
        assert folder in owned


@pytest.mark.parametrize("target", TARGETS)
def test_installs_use_the_constraints(stages, target):
    installs = [
        part.split("#")[0]
        for stage in resolve_stages(stages, target)
        for run in stage.all("RUN")
        for part in run.split("&&")
        if "pip install" in part
    ]
    assert len(installs) == 3
    for install in installs:
        # Constraints have no effect on installs without dependencies: exact pins, or this project itself.
        assert "-c /requirements/constraints.txt" in install or "--no-deps" in install
    assert any("-r /requirements/project.txt -r /requirements/requirements.txt" in install for install in installs)
    assert "PIP_NO_CACHE_DIR=1" in " ".join(stages["base"].all("ENV"))


def test_targets_differ_in_torch_only(stages):
    cpu, cuda = stages["cpu-packages"], stages["cuda-packages"]
    # No address of somebody else's is built in.
    assert cpu.all("ARG") == ["TORCH_CPU_INDEX_URL"]
    (from_index,) = (run for run in cpu.all("RUN") if "--index-url" in run)
    assert "--no-deps" in from_index
    assert "/requirements/torch.txt" in from_index
    assert not any("index-url" in run for stage in stages.values() if stage is not cpu for run in stage.all("RUN"))
    assert cpu.all("RUN")[-1] == cuda.all("RUN")[-1]
    assert stages["cpu"].all("RUN") == stages["cuda"].all("RUN")
    assert stages["cpu"].all("COPY") == stages["cuda"].all("COPY")
    # Only the cuda target asks for the driver.
    (variables,) = stages["cuda"].all("ENV")
    assert "NVIDIA_VISIBLE_DEVICES=all" in variables and "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in variables
    assert not any("NVIDIA" in rest for stage in resolve_stages(stages, "cpu") for rest in stage.all("ENV"))


def test_extra_pins_do_not_contradict_the_constraints():
    constraints, more = _pins("constraints.txt"), _pins("docker/requirements.txt")
    assert {"psycopg", "psycopg-binary", "s3fs", "boto3"} <= set(more)
    assert {name: (constraints[name], pin) for name, pin in more.items() if constraints.get(name, pin) != pin} == {}
    # s3fs and fsspec are released as a pair.
    assert more["s3fs"] == constraints["fsspec"]


def test_requirement_lists_come_from_the_project(stages, tmp_path):
    (copy,), (making,) = stages["requirements"].all("COPY"), stages["requirements"].all("RUN")
    for source in copy.split()[:-1]:
        shutil.copy(ROOT / source, tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", "-c", making], cwd=tmp_path, env={"PATH": path}, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {
        "constraints.txt",
        "project.txt",
        "requirements.txt",
        "torch.txt",
    }
    project = {
        canonicalize_name(Requirement(line).name) for line in (tmp_path / "project.txt").read_text().splitlines()
    }
    assert {"ray", "torch", "mlflow", "timm", "pydantic"} <= project
    constraints = _pins("constraints.txt")
    assert project <= set(constraints)
    assert sorted((tmp_path / "torch.txt").read_text().splitlines()) == [
        f"{name}=={constraints[name]}" for name in ("torch", "torchvision")
    ]


def _ignored(path: str, patterns: list[str]) -> bool:
    """Return whether the build context omits a path: the last pattern that matches it or a folder of it decides."""
    parts = path.split("/")
    prefixes = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    ignored = False
    for pattern in patterns:
        bare = pattern.removeprefix("!").removeprefix("**/")
        candidates = parts if "**/" in pattern else prefixes
        if any(fnmatch.fnmatch(candidate, bare) and (bare != "*" or "/" not in candidate) for candidate in candidates):
            ignored = not pattern.startswith("!")
    return ignored


def test_build_context_contains_the_copied_files_only(stages):
    lines = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    copied = {
        source
        for stage in stages.values()
        for copy in stage.all("COPY")
        if not copy.startswith("--from=")
        for source in copy.split()[:-1]
    }
    for source in copied:
        assert (ROOT / source).exists(), source
        assert not _ignored(source, patterns), source
    assert {pattern[1:] for pattern in patterns if pattern.startswith("!")} == copied
    assert not _ignored("pld_grid/train/cohort.py", patterns)
    for path in (
        ".git/config",
        ".venv/bin/python",
        ".pld_grid/store/x",
        "docker/.env",
        "reports/digits/x.csv",
        "pld_grid/train/__pycache__/cohort.cpython-311.pyc",
        "tests/conftest.py",
    ):
        assert _ignored(path, patterns), path


def test_copies_name_existing_stages(stages):
    named = re.findall(r"(?:--from=|,from=)([\w-]+)", (DOCKER / "Dockerfile").read_text())
    assert set(named) == {"requirements", "code"}
    assert set(named) <= set(stages)
    assert {rest for stage in stages.values() for rest in stage.all("COPY") if "/app /app" in rest} == {
        "--from=code /app /app"
    }


def test_build_arguments_contain_no_secret(stages):
    # The history of an image shows build arguments and variables.
    set_here = [rest for stage in stages.values() for word, rest in stage.instructions if word in ("ARG", "ENV")]
    names = {name for rest in set_here for name in re.findall(r"(\w+)=", f" {rest}")}
    assert "PLD_GRID_COMMIT" in names
    assert [name for name in names if re.search("TOKEN|PASSWORD|SECRET|KEY|CREDENTIAL", name)] == []


@pytest.mark.parametrize("target", TARGETS)
def test_target_has_a_command_and_a_health_check(stages, target):
    command = parse_exec_form(last_instruction(stages, target, "CMD") or "")
    assert command[:3] == ["ray", "start", "--head"]
    assert "--block" in command
    health = last_instruction(stages, target, "HEALTHCHECK") or ""
    assert health_command(health)[:2] == ["python", "docker/health.py"]
    # The check times out before Docker does.
    timeout = re.search(r"--timeout=(\d+)s", health)
    assert int(timeout[1]) > 8
    assert last_instruction(stages, target, "WORKDIR") == "/app"
    copied = {copy.split()[-1] for copy in stages["code"].all("COPY")}
    assert "/app/docker/health.py" in copied
