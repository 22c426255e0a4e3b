"""The Kubernetes manifests: fields that the API has, GPUs and memory that add up, drivers off spot nodes."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipes import DOCKER, ROOT, dockerfile, manifest, manifests, pods, unknown_fields

CLUSTER = manifest("RayCluster")["spec"]
JOB = manifest("RayJob")["spec"]
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
def published() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "published_fields.yaml").read_text())["kuberay"]
    return found


@pytest.mark.parametrize("document", manifests(), ids=lambda each: each["metadata"]["name"])
def test_all_fields_are_published_ones(document: dict[str, Any], published: dict[str, Any]) -> None:
    assert list(unknown_fields(document, published["fields"], published["links"], document["kind"])) == []


def test_misspelt_fields_would_be_found(published: dict[str, Any]) -> None:
    wrong = {"spec": {"shutdownAfterJobFinish": True, "rayClusterSpec": {"headGroupSpec": {"template": {"specs": {}}}}}}
    found = list(unknown_fields(wrong, published["fields"], published["links"], "RayJob"))
    assert found == ["RayJob.spec.shutdownAfterJobFinish", "PodTemplate.specs"]


def test_choices_are_published_ones(published: dict[str, Any]) -> None:
    choices = published["choices"]
    assert CLUSTER["authOptions"]["mode"] in choices["RayClusterSpec.authOptions.mode"]
    assert CLUSTER["autoscalerOptions"]["version"] in choices["RayClusterSpec.autoscalerOptions.version"]
    assert CLUSTER["autoscalerOptions"]["upscalingMode"] in choices["RayClusterSpec.autoscalerOptions.upscalingMode"]
    assert JOB["submissionMode"] in choices["RayJob.spec.submissionMode"]


def test_the_apis_are_the_stable_ones() -> None:
    versions = {each["kind"]: each["apiVersion"] for each in manifests()}
    assert versions == {"PersistentVolumeClaim": "v1", "RayCluster": "ray.io/v1", "RayJob": "ray.io/v1"}


def test_a_job_brings_the_same_cluster() -> None:
    assert JOB["rayClusterSpec"] == CLUSTER


def test_the_version_is_that_of_the_images() -> None:
    (pinned,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert CLUSTER["rayVersion"] == pinned
    _, stages = dockerfile()
    for pod in PODS.values():
        for container in pod["containers"]:
            name, _, target = container["image"].partition(":")
            assert name == "pld-grid"
            assert target in stages


def test_workers_scale_between_bounds() -> None:
    assert CLUSTER["enableInTreeAutoscaling"] is True
    for group in CLUSTER["workerGroupSpecs"]:
        # Without a worker at the start, a run would refuse cohorts that the cluster has no GPU for.
        assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        # Autoscaler v2 replaces pods itself: KubeRay refuses any other policy.
        assert group["template"]["spec"].get("restartPolicy", "Never") == "Never"
    assert CLUSTER["headGroupSpec"]["template"]["spec"].get("restartPolicy", "Never") == "Never"


def test_requests_are_limits_where_it_matters() -> None:
    for name, pod in PODS.items():
        for container in pod["containers"]:
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert requests["memory"] == limits["memory"]
            assert requests.get("nvidia.com/gpu") == limits.get("nvidia.com/gpu")
            assert ("nvidia.com/gpu" in limits) == (name == "gpu")


def test_trials_run_on_workers_only() -> None:
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert all("num-cpus" not in group["rayStartParams"] for group in CLUSTER["workerGroupSpecs"])


@pytest.mark.parametrize("group", [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]])
def test_the_object_store_fits_into_shared_memory_and_that_into_the_pod(group: dict[str, Any]) -> None:
    pod = group["template"]["spec"]
    (volume,) = (each for each in pod["volumes"] if each["name"] == "shared-memory")
    assert volume["emptyDir"]["medium"] == "Memory"
    shared = _bytes(volume["emptyDir"]["sizeLimit"])
    assert int(group["rayStartParams"]["object-store-memory"]) < shared
    # A pod's memory limit counts what lies in its /dev/shm.
    assert shared <= _bytes(pod["containers"][0]["resources"]["limits"]["memory"]) / 2
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]


def test_the_driver_stays_off_spot_nodes_and_workers_seek_them() -> None:
    head, worker = PODS["head"], PODS["gpu"]
    (term,) = head["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    # One term: all of its expressions hold, where several terms would be alternatives.
    assert {each["key"]: (each["operator"], each["values"]) for each in term["matchExpressions"]} == {
        key: ("NotIn", [value]) for key, value in SPOT.items()
    }
    assert "tolerations" not in head
    wanted = worker["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    sought = [expression for each in wanted for expression in each["preference"]["matchExpressions"]]
    assert {each["key"]: (each["operator"], each["values"]) for each in sought} == {
        key: ("In", [value]) for key, value in SPOT.items()
    }
    # A spot node is still none that must be: without any, workers run elsewhere.
    assert "requiredDuringSchedulingIgnoredDuringExecution" not in worker["affinity"]["nodeAffinity"]
    tolerated = {each["key"]: each.get("value") for each in worker["tolerations"]}
    assert tolerated["nvidia.com/gpu"] is None
    for key in ("cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"):
        assert tolerated[key] == SPOT[key]


def test_all_pods_run_as_the_images_user_and_confined() -> None:
    _, stages = dockerfile()
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


def test_volumes_and_claims_fit_together() -> None:
    claims = {each["metadata"]["name"]: each["spec"] for each in manifests() if each["kind"] == "PersistentVolumeClaim"}
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


def _strings(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield key, part
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


def test_secrets_are_named_not_written() -> None:
    assert CLUSTER["authOptions"] == {"mode": "token", "secretName": "pld-grid-ray-token"}
    referred = {part["name"] for key, part in _strings(manifests()) if key in ("secretKeyRef", "secretRef")}
    assert referred == {"pld-grid-mlflow", "pld-grid-object-storage"}
    assert {each["kind"] for each in manifests()} & {"Secret"} == set()
    for pod in PODS.values():
        for variable in (each for container in pod["containers"] for each in container.get("env", ())):
            if re.search("TOKEN|PASSWORD|KEY", variable["name"]):
                assert "value" not in variable
    # README says how each of them is made.
    readme = (DOCKER / "README.md").read_text()
    for name in (*referred, "pld-grid-ray-token"):
        assert f"kubectl create secret generic {name}" in readme


def test_labels_are_the_same_everywhere() -> None:
    labels = [each["metadata"]["labels"] for each in manifests()]
    groups = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"], {"template": JOB["submitterPodTemplate"]}]
    labels += [group["template"]["metadata"]["labels"] for group in groups]
    assert {each["app.kubernetes.io/name"] for each in labels} == {"pld-grid"}
    components = [each.get("app.kubernetes.io/component") for each in labels]
    assert [name for name in components if name] == ["head", "worker", "submitter"]


def test_a_job_cleans_up_goes_on_elsewhere_and_stops_in_order() -> None:
    assert JOB["shutdownAfterJobFinishes"] is True
    assert JOB["ttlSecondsAfterFinished"] > 0
    assert JOB["backoffLimit"] > 0
    runtime = yaml.safe_load(JOB["runtimeEnvYAML"])["env_vars"]
    # Ray takes strings only.
    assert all(isinstance(value, str) for value in runtime.values())
    assert runtime["RAY_JOB_STOP_SIGNAL"] == "SIGINT"
    (grace,) = re.findall(r"--grace (\d+)", JOB["entrypoint"])
    assert int(runtime["RAY_JOB_STOP_WAIT_TIME_S"]) >= int(grace) + 60
    assert "--address auto" in JOB["entrypoint"]
    for grid in re.findall(r"\S+\.yaml", JOB["entrypoint"]):
        assert (ROOT / grid).is_file()
