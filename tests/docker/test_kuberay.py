"""The Kubernetes manifests: published fields, consistent resources, no drivers on spot nodes."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker_files import DOCKER, ROOT, find_manifest, pods, read_dockerfile, read_manifests, unknown_fields

CLUSTER = find_manifest("RayCluster")["spec"]
JOB = find_manifest("RayJob")["spec"]
SPOT = {
    "cloud.google.com/gke-spot": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
PODS = {**pods(CLUSTER), "submitter": JOB["submitterPodTemplate"]["spec"]}
BYTES = {"Gi": 2**30, "Mi": 2**20}


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * BYTES[quantity[-2:]]


@pytest.fixture(scope="module")
def published() -> Any:
    return yaml.safe_load((Path(__file__).parent / "published_fields.yaml").read_text())["kuberay"]


@pytest.mark.parametrize("document", read_manifests(), ids=lambda each: each["metadata"]["name"])
def test_manifests_use_published_fields_only(document, published):
    assert list(unknown_fields(document, published["fields"], published["links"], document["kind"])) == []


def test_unknown_fields_reports_misspelt_fields(published):
    wrong = {"spec": {"shutdownAfterJobFinish": True, "rayClusterSpec": {"headGroupSpec": {"template": {"specs": {}}}}}}
    unknown = list(unknown_fields(wrong, published["fields"], published["links"], "RayJob"))
    assert unknown == ["RayJob.spec.shutdownAfterJobFinish", "PodTemplate.specs"]


def test_choices_are_published(published):
    choices = published["choices"]
    assert CLUSTER["authOptions"]["mode"] in choices["RayClusterSpec.authOptions.mode"]
    assert CLUSTER["autoscalerOptions"]["version"] in choices["RayClusterSpec.autoscalerOptions.version"]
    assert CLUSTER["autoscalerOptions"]["upscalingMode"] in choices["RayClusterSpec.autoscalerOptions.upscalingMode"]
    assert JOB["submissionMode"] in choices["RayJob.spec.submissionMode"]


def test_manifests_use_stable_apis_and_the_same_labels():
    versions = {each["kind"]: each["apiVersion"] for each in read_manifests()}
    assert versions == {"PersistentVolumeClaim": "v1", "RayCluster": "ray.io/v1", "RayJob": "ray.io/v1"}
    groups = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"], {"template": JOB["submitterPodTemplate"]}]
    labels = [each["metadata"]["labels"] for each in (*read_manifests(), *(group["template"] for group in groups))]
    assert {each["app.kubernetes.io/name"] for each in labels} == {"pld-grid"}
    component = "app.kubernetes.io/component"
    assert [each[component] for each in labels if component in each] == ["head", "worker", "submitter"]


def test_rayjob_contains_the_same_cluster():
    assert JOB["rayClusterSpec"] == CLUSTER


def test_versions_match_the_images():
    (pinned,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert CLUSTER["rayVersion"] == pinned
    _, stages = read_dockerfile()
    for pod in PODS.values():
        for container in pod["containers"]:
            name, _, target = container["image"].partition(":")
            assert name == "pld-grid"
            assert target in stages


def test_workers_scale_between_bounds():
    assert CLUSTER["enableInTreeAutoscaling"] is True
    for group in CLUSTER["workerGroupSpecs"]:
        # Without a worker at the start, a run refuses cohorts that need a GPU.
        assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        # Autoscaler v2 replaces pods itself, so KubeRay refuses any other policy.
        assert group["template"]["spec"].get("restartPolicy", "Never") == "Never"
    assert CLUSTER["headGroupSpec"]["template"]["spec"].get("restartPolicy", "Never") == "Never"


def test_memory_and_gpu_requests_equal_limits():
    for name, pod in PODS.items():
        for container in pod["containers"]:
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert requests["memory"] == limits["memory"]
            assert requests.get("nvidia.com/gpu") == limits.get("nvidia.com/gpu")
            assert ("nvidia.com/gpu" in limits) == (name == "gpu")


def test_trials_run_on_workers_only():
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert all("num-cpus" not in group["rayStartParams"] for group in CLUSTER["workerGroupSpecs"])


@pytest.mark.parametrize("group", [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]])
def test_object_store_fits_into_shared_memory_and_pod(group):
    pod = group["template"]["spec"]
    (volume,) = (each for each in pod["volumes"] if each["name"] == "shared-memory")
    assert volume["emptyDir"]["medium"] == "Memory"
    shared = _bytes(volume["emptyDir"]["sizeLimit"])
    assert int(group["rayStartParams"]["object-store-memory"]) < shared
    # A pod's memory limit includes its /dev/shm.
    assert shared <= _bytes(pod["containers"][0]["resources"]["limits"]["memory"]) / 2
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]


def test_head_avoids_spot_nodes_and_workers_prefer_them():
    head, worker = PODS["head"], PODS["gpu"]
    (term,) = head["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    # All expressions of one term must hold; several terms would be alternatives.
    assert {each["key"]: (each["operator"], each["values"]) for each in term["matchExpressions"]} == {
        key: ("NotIn", [value]) for key, value in SPOT.items()
    }
    assert "tolerations" not in head
    wanted = worker["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    sought = [expression for each in wanted for expression in each["preference"]["matchExpressions"]]
    assert {each["key"]: (each["operator"], each["values"]) for each in sought} == {
        key: ("In", [value]) for key, value in SPOT.items()
    }
    # Spot nodes are not required: without any, workers run elsewhere.
    assert "requiredDuringSchedulingIgnoredDuringExecution" not in worker["affinity"]["nodeAffinity"]
    tolerated = {each["key"]: each.get("value") for each in worker["tolerations"]}
    assert tolerated["nvidia.com/gpu"] is None
    for key in ("cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"):
        assert tolerated[key] == SPOT[key]


def test_pods_run_as_the_user_of_the_image_and_confined():
    _, stages = read_dockerfile()
    user, group = (int(part) for part in stages["cuda"].all("USER")[-1].split(":"))
    for pod in PODS.values():
        context = pod["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"], context["runAsGroup"]) == (True, user, group)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        if "volumes" in pod:
            assert context["fsGroup"] == group
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert CLUSTER["autoscalerOptions"]["securityContext"]["allowPrivilegeEscalation"] is False


def test_volumes_match_claims_and_mounts():
    claims = {
        each["metadata"]["name"]: each["spec"] for each in read_manifests() if each["kind"] == "PersistentVolumeClaim"
    }
    for pod in pods(CLUSTER).values():
        volumes = {each["name"]: each for each in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            values = {each["name"]: each.get("value") for each in container["env"]}
            assert values["PLD_GRID_STORE"] == mounts["store"]
            assert values["PLD_GRID_DATA"] == mounts["data"]
        used = {each["persistentVolumeClaim"]["claimName"] for each in volumes.values() if "emptyDir" not in each}
        assert used == set(claims)
    # Head and workers are on different nodes.
    assert all(claim["accessModes"] == ["ReadWriteMany"] for claim in claims.values())


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield key, part
            yield from _walk(part)
    elif isinstance(value, list):
        for part in value:
            yield from _walk(part)


def test_manifests_refer_to_secrets_only():
    assert CLUSTER["authOptions"] == {"mode": "token", "secretName": "pld-grid-ray-token"}
    referred = {part["name"] for key, part in _walk(read_manifests()) if key in ("secretKeyRef", "secretRef")}
    assert referred == {"pld-grid-mlflow", "pld-grid-object-storage"}
    assert {each["kind"] for each in read_manifests()} & {"Secret"} == set()
    for pod in PODS.values():
        for variable in (each for container in pod["containers"] for each in container.get("env", ())):
            if re.search("TOKEN|PASSWORD|KEY", variable["name"]):
                assert "value" not in variable
    # The README shows how to create each of them.
    readme = (DOCKER / "README.md").read_text()
    for name in (*referred, "pld-grid-ray-token"):
        assert f"kubectl create secret generic {name}" in readme


def test_rayjob_cleans_up_retries_and_stops_gracefully():
    assert JOB["shutdownAfterJobFinishes"] is True
    assert JOB["ttlSecondsAfterFinished"] > 0
    assert JOB["backoffLimit"] > 0
    runtime = yaml.safe_load(JOB["runtimeEnvYAML"])["env_vars"]
    # Ray accepts strings only.
    assert all(isinstance(value, str) for value in runtime.values())
    assert runtime["RAY_JOB_STOP_SIGNAL"] == "SIGINT"
    (grace,) = re.findall(r"--grace (\d+)", JOB["entrypoint"])
    assert int(runtime["RAY_JOB_STOP_WAIT_TIME_S"]) >= int(grace) + 60
    assert "--address auto" in JOB["entrypoint"]
    for grid in re.findall(r"\S+\.yaml", JOB["entrypoint"]):
        assert (ROOT / grid).is_file()
