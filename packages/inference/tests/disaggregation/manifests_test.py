"""Manifests are what the operators' schemas allow, and what clients, probes and drains need agrees between their parts."""

import copy
import json

import pytest

from tests.disaggregation.schema import SCHEMAS, complaints
from trellax.inference.disaggregation import (
    Accelerator,
    Role,
    Serving,
    disaggregated_manifests,
    fused_manifests,
    to_text,
)

SERVING = Serving(
    "chat",
    image="registry.example/trellax:1",
    experiment="llama3_8b",
    weights_claim="llama3-8b",
    namespace="models",
    api_keys_secret="chat-api-keys",
    transport_secret="chat-transport",
)
TPU = Accelerator.tpu("tpu-v6e-slice", "2x2", chips=4)
GPU = Accelerator.gpu(8, node_selector={"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"})

FUSED = {
    "GPUs": fused_manifests(SERVING, Role(2, GPU)),
    "TPUs": fused_manifests(SERVING, Role(None, TPU)),
}
DISAGGREGATED = {
    "roles on GPUs": disaggregated_manifests(SERVING, prefill=Role(2, GPU), decode=Role(3, GPU)),
    "roles on TPUs, scaled by others": disaggregated_manifests(
        SERVING, prefill=Role(None, TPU), decode=Role(None, GPU), num_routers=1
    ),
}
ALL = {**FUSED, **DISAGGREGATED}
each = pytest.mark.parametrize("objects", ALL.values(), ids=ALL.keys())
each_disaggregated = pytest.mark.parametrize(
    "objects", DISAGGREGATED.values(), ids=DISAGGREGATED.keys()
)


def groups_of(objects):
    """The spec of each LeaderWorkerSet, by role."""
    last = objects[-1]
    if last["kind"] == "LeaderWorkerSet":
        return {"engine": last["spec"]}
    return {role["name"]: role["spec"] for role in last["spec"]["roles"]}


def pod_of(groups):
    assert groups["leaderWorkerTemplate"]["size"] == 1
    return groups["leaderWorkerTemplate"]["workerTemplate"]


def container_of(groups):
    (container,) = pod_of(groups)["spec"]["containers"]
    return container


def find(objects, kind, name):
    (found,) = (o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name))
    return found


@each
def test_the_operators_schema_allows_it(objects):
    last = objects[-1]
    assert list(complaints(last, SCHEMAS[last["kind"]], last["kind"])) == []
    assert json.loads(to_text(objects)) == {"apiVersion": "v1", "kind": "List", "items": objects}


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("spec", "roles", 0, "name"), "Prefill", "is 'Prefill'; expected"),
        (("spec", "roles"), [], "has 0 items"),
        (("spec", "roles", 0, "scaling", "mode"), "Auto", r"is 'Auto'; expected one of"),
        (("spec", "roles", 0, "spec", "replicas"), -1, "replicas is -1"),
        (("spec", "roles", 0, "spec", "replicas"), "2", "expected <class 'int'>"),
        (("spec", "roles", 0, "spec", "leaderWorkerTemplate", "workers"), 1, "workers is unknown"),
        (
            ("spec", "roles", 0, "spec", "leaderWorkerTemplate"),
            {"size": 1},
            "workerTemplate is missing",
        ),
    ],
)
def test_the_check_finds_what_is_wrong(path, value, complaint):
    manifest = copy.deepcopy(DISAGGREGATED["roles on GPUs"][-1])
    parent = manifest
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    (found,) = complaints(manifest, SCHEMAS["DisaggregatedSet"], "DisaggregatedSet")
    assert complaint in found


@each
def test_every_name_and_namespace_is_the_servings(objects):
    for manifest in objects:
        assert manifest["metadata"]["name"].startswith("chat")
        assert manifest["metadata"]["namespace"] == "models"


@each
def test_services_select_one_role_and_name_its_ports(objects):
    for service in objects[:-1]:
        selector = service["spec"]["selector"].items()
        (groups,) = (
            groups
            for groups in groups_of(objects).values()
            if selector <= pod_of(groups)["metadata"]["labels"].items()
        )
        offered = {port["name"]: port["containerPort"] for port in container_of(groups)["ports"]}
        assert {p["targetPort"]: p["port"] for p in service["spec"]["ports"]} == offered


@each
def test_the_grace_period_covers_the_notice_and_the_drain(objects):
    for groups in groups_of(objects).values():
        container = container_of(groups)
        notice_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        (drain,) = (a for a in container["args"] if a.startswith("--drain_grace="))
        longest_s = notice_s + int(drain.partition("=")[2])
        assert pod_of(groups)["spec"]["terminationGracePeriodSeconds"] > longest_s


@each
def test_pods_are_probed_where_they_listen(objects):
    for groups in groups_of(objects).values():
        container = container_of(groups)
        probes = {name: probe for name, probe in container.items() if name.endswith("Probe")}
        paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
        assert paths == {
            "startupProbe": "/health",
            "livenessProbe": "/health",
            "readinessProbe": "/ready",
        }
        assert {"--host=0.0.0.0", "--port=8000"} <= set(container["args"])
        startup = probes["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= SERVING.startup_s


@each
def test_what_is_mounted_is_there_and_what_is_read_is_mounted(objects):
    for name, groups in groups_of(objects).items():
        container = container_of(groups)
        folders = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {m["name"] for m in container["volumeMounts"]} == {
            v["name"] for v in pod_of(groups)["spec"]["volumes"]
        }
        files = [a.partition("=")[2] for a in container["args"] if "=/" in a]
        assert len(files) == (
            3 if name == "router" else 2
        )  # The weights, and the secrets of the role.
        assert all(any(file.startswith(folder) for folder in folders) for file in files)


def test_an_engine_has_the_accelerators_that_were_asked_for():
    gpus, tpus = (groups_of(FUSED[name])["engine"] for name in ("GPUs", "TPUs"))
    assert gpus["replicas"] == 2 and "replicas" not in tpus
    assert container_of(gpus)["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert container_of(gpus)["command"] == ["trellax", "serve", "llama3_8b"]
    assert "--weights=/weights" in container_of(gpus)["args"]
    assert container_of(tpus)["resources"]["limits"]["google.com/tpu"] == "4"
    assert pod_of(tpus)["spec"]["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "2x2",
    }


@each_disaggregated
def test_each_role_is_called_so_and_routers_find_both(objects):
    roles = groups_of(objects)
    assert list(roles) == ["prefill", "decode", "router"]
    for name, groups in roles.items():
        assert f"--role={name}" in container_of(groups)["args"]
    router = container_of(roles["router"])
    for name in ("prefill", "decode"):
        service = find(objects, "Service", f"chat-{name}")
        assert service["spec"]["clusterIP"] == "None"
        assert f"--{name}_workers=chat-{name}:8470" in router["args"]
        ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
        assert ports["control"] == 8470
        assert ports.get("pages") == (8471 if name == "decode" else None)
    assert not any("nvidia" in r or "tpu" in r for r in router["resources"]["limits"])
    assert find(objects, "Service", "chat")["spec"]["selector"]["trellax.dev/role"] == "router"


@each_disaggregated
def test_roles_are_scaled_each_on_its_own(objects):
    # A rule of DisaggregatedSet besides its schema: roles that are not scaled from outside have replicas.
    for role in objects[-1]["spec"]["roles"]:
        if role["scaling"]["mode"] == "External":
            assert "replicas" not in role["spec"]
        else:
            assert role["spec"]["replicas"] > 0


def test_weights_are_given_in_one_way():
    for options in ({}, {"weights": "gs://bucket/w", "weights_claim": "w"}):
        with pytest.raises(ValueError, match="chat: give weights or weights_claim, one of them"):
            Serving("chat", image="i", experiment="e", **options)
    with pytest.raises(ValueError, match="num_groups=0 must be at least 1"):
        Role(0, GPU)
