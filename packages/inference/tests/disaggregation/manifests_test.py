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
TPU = Accelerator.tpu("tpu-v6e-slice", "4x4", chips=4)
GPU = Accelerator.gpu(8, node_selector={"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"})

FUSED = {
    "one host of GPUs": fused_manifests(SERVING, Role(2, GPU)),
    "several hosts of TPUs": fused_manifests(SERVING, Role(None, TPU, num_hosts=4)),
}
DISAGGREGATED = {
    "GPUs": disaggregated_manifests(SERVING, prefill=Role(2, GPU), decode=Role(3, GPU)),
    "TPUs, scaled by others": disaggregated_manifests(
        SERVING, prefill=Role(None, TPU, num_hosts=4), decode=Role(None, GPU), num_routers=1
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


def pods_of(groups):
    return (
        groups["leaderWorkerTemplate"]["leaderTemplate"],
        groups["leaderWorkerTemplate"]["workerTemplate"],
    )


def container_of(pod):
    (container,) = pod["spec"]["containers"]
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
    manifest = copy.deepcopy(DISAGGREGATED["GPUs"][-1])
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
def test_services_select_leaders_alone_and_name_their_ports(objects):
    leaders = [pods_of(groups)[0] for groups in groups_of(objects).values()]
    workers = [pods_of(groups)[1] for groups in groups_of(objects).values()]
    for service in objects[:-1]:
        selector = service["spec"]["selector"].items()
        (leader,) = (pod for pod in leaders if selector <= pod["metadata"]["labels"].items())
        assert not any(selector <= pod["metadata"]["labels"].items() for pod in workers)
        offered = {port["name"]: port["containerPort"] for port in container_of(leader)["ports"]}
        assert {p["targetPort"]: p["port"] for p in service["spec"]["ports"]} == offered


@each
def test_the_grace_period_covers_the_notice_and_the_drain(objects):
    for groups in groups_of(objects).values():
        for pod in pods_of(groups):
            container = container_of(pod)
            notice_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            (drain,) = (a for a in container["args"] if a.startswith("--drain-grace="))
            assert pod["spec"]["terminationGracePeriodSeconds"] > notice_s + int(
                drain.partition("=")[2]
            )


@each
def test_leaders_are_probed_where_they_listen_and_others_are_not(objects):
    for groups in groups_of(objects).values():
        leader, worker = map(container_of, pods_of(groups))
        paths = {name: leader[name]["httpGet"]["path"] for name in leader if name.endswith("Probe")}
        assert paths == {
            "startupProbe": "/health",
            "livenessProbe": "/health",
            "readinessProbe": "/ready",
        }
        assert {"--host=0.0.0.0", "--port=8000"} <= set(leader["args"])
        startup = leader["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= SERVING.startup_s
        assert not any(name.endswith("Probe") for name in worker)
        assert worker["ports"] == []


@each
def test_what_is_mounted_is_there_and_what_is_read_is_mounted(objects):
    for groups in groups_of(objects).values():
        for pod in pods_of(groups):
            container = container_of(pod)
            folders = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert {m["name"] for m in container["volumeMounts"]} == {
                v["name"] for v in pod["spec"]["volumes"]
            }
            files = [a.partition("=")[2] for a in container["args"] if "=/" in a]
            assert len(files) == 3
            assert all(any(file.startswith(folder) for folder in folders) for file in files)


def test_a_mesh_of_several_hosts_knows_its_leader_and_has_a_slice_of_its_own():
    *_, groups = FUSED["several hosts of TPUs"]
    assert groups["spec"]["leaderWorkerTemplate"]["size"] == 4
    assert groups["metadata"]["annotations"] == {
        "leaderworkerset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }
    for pod in pods_of(groups["spec"]):
        container = container_of(pod)
        assert "--mesh-coordinator=$(LWS_LEADER_ADDRESS):8476" in container["args"]
        assert container["resources"]["limits"]["google.com/tpu"] == "4"
        assert pod["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"


def test_a_group_of_one_host_needs_no_coordinator():
    groups = groups_of(FUSED["one host of GPUs"])["engine"]
    assert (groups["replicas"], groups["leaderWorkerTemplate"]["size"]) == (2, 1)
    leader, _ = pods_of(groups)
    assert not any("mesh" in argument for argument in container_of(leader)["args"])
    assert container_of(leader)["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert container_of(leader)["command"] == ["trellax", "serve", "llama3_8b"]
    assert "--weights=/weights" in container_of(leader)["args"]


@each_disaggregated
def test_each_role_is_called_so_and_routers_find_both(objects):
    roles = groups_of(objects)
    assert list(roles) == ["prefill", "decode", "router"]
    for name, groups in roles.items():
        leader, _ = pods_of(groups)
        assert f"--role={name}" in container_of(leader)["args"]
    router = container_of(pods_of(roles["router"])[0])
    for name in ("prefill", "decode"):
        service = find(objects, "Service", f"chat-{name}")
        assert service["spec"]["clusterIP"] == "None"
        assert f"--{name}-workers=chat-{name}:8470" in router["args"]
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
