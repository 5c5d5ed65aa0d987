"""Manifests of Kubernetes: `fused_manifests` and `disaggregated_manifests`, and `to_text` for kubectl.

    objects = disaggregated_manifests(serving, prefill=Role(4, accelerator), decode=Role(8, accelerator), num_routers=2)
    Path("serving.json").write_text(to_text(objects))        # kubectl apply -f serving.json

A *group* is the pods of one engine, which is one pod: an engine's mesh is of one host. Groups are made by LeaderWorkerSet;
roles that are rolled out together, and scaled each on its own, by DisaggregatedSet. Both are operators of
https://lws.sigs.k8s.io, which a cluster must have. Containers run `trellax serve`, whose flags these are.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

from trellax.inference.disaggregation.pods import (
    CONTROL_PORT,
    HTTP_PORT,
    PAGE_PORT,
    Accelerator,
    Manifest,
    Secret,
    Serving,
    pod_template,
)

_LABEL = "trellax.dev"
_FLAGS = {"http": "--port", "control": "--control_port", "pages": "--page_port"}
"""Of `trellax serve`, for each port."""
_SECRETS: dict[str, tuple[Secret, ...]] = {
    "engine": ("api-keys",),
    "prefill": ("transport-secret",),
    "decode": ("transport-secret",),
    "router": ("api-keys", "transport-secret"),
}
"""That each role reads: clients talk to engines and routers, routers and workers to each other."""


@dataclasses.dataclass(frozen=True)
class Role:
    """Groups that do the same.

    Attributes:
        num_groups: how many there are; None leaves it to an autoscaler, of the LeaderWorkerSet or of the scaler object
            that a DisaggregatedSet then makes for the role.
        accelerator: of each; None for groups that compute nothing.
        arguments: further ones of `trellax serve`, such as the mesh of this role.
    """

    num_groups: int | None
    accelerator: Accelerator | None
    arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.num_groups is not None and self.num_groups < 1:
            raise ValueError(f"num_groups={self.num_groups} must be at least 1.")


def fused_manifests(serving: Serving, role: Role) -> list[Manifest]:
    """Returns a Service for clients and a LeaderWorkerSet, each group of which is a whole engine."""
    labels = _labels(serving, "engine")
    return [
        _service(serving, serving.name, "engine", {"http": HTTP_PORT}, is_headless=False),
        {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": serving.metadata(serving.name, labels),
            "spec": _groups(serving, "engine", role, {"http": HTTP_PORT}, ()),
        },
    ]


def disaggregated_manifests(
    serving: Serving, *, prefill: Role, decode: Role, num_routers: int = 2
) -> list[Manifest]:
    """Returns a Service for clients, one for the workers of each role, and a DisaggregatedSet of three roles.

    Routers speak HTTP and compute nothing. They find workers through the headless services, whose names have an address
    for each worker that is ready.

    Args:
        serving: what is served.
        prefill: groups that compute prompts.
        decode: groups that generate.
        num_routers: pods between clients and workers.
    """
    router = Role(num_routers, None, arguments=_finding_workers(serving))
    roles = {
        "prefill": (prefill, {"http": HTTP_PORT, "control": CONTROL_PORT}),
        "decode": (decode, {"http": HTTP_PORT, "control": CONTROL_PORT, "pages": PAGE_PORT}),
        "router": (router, {"http": HTTP_PORT}),
    }
    return [
        _service(serving, serving.name, "router", {"http": HTTP_PORT}, is_headless=False),
        *(
            _service(serving, f"{serving.name}-{name}", name, roles[name][1], is_headless=True)
            for name in ("prefill", "decode")
        ),
        {
            "apiVersion": "disaggregatedset.x-k8s.io/v1",
            "kind": "DisaggregatedSet",
            "metadata": serving.metadata(serving.name, {"app.kubernetes.io/name": serving.name}),
            "spec": {
                "roles": [
                    _role(serving, name, role, ports) for name, (role, ports) in roles.items()
                ]
            },
        },
    ]


def to_text(objects: Sequence[Manifest]) -> str:
    """Returns one file for `kubectl apply -f`, as JSON, which is YAML too."""
    listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    return json.dumps(listed, indent=2) + "\n"


def _role(serving: Serving, name: str, role: Role, ports: Mapping[str, int]) -> Manifest:
    return {
        "name": name,
        "scaling": {"mode": "External" if role.num_groups is None else "Static"},
        "metadata": {"labels": _labels(serving, name)},
        "spec": _groups(serving, name, role, ports, (f"--role={name}",)),
    }


def _groups(
    serving: Serving,
    name: str,
    role: Role,
    ports: Mapping[str, int],
    arguments: tuple[str, ...],
) -> Manifest:
    """Returns the spec of a LeaderWorkerSet."""
    listening = (f"{_FLAGS[port]}={number}" for port, number in ports.items())
    pod = pod_template(
        serving,
        labels=_labels(serving, name),
        arguments=(*arguments, *role.arguments, "--host=0.0.0.0", *listening),
        accelerator=role.accelerator,
        ports=ports,
        secrets=_SECRETS[name],
    )
    groups: Manifest = {"leaderWorkerTemplate": {"size": 1, "workerTemplate": pod}}
    if role.num_groups is not None:
        groups["replicas"] = role.num_groups
    return groups


def _finding_workers(serving: Serving) -> tuple[str, ...]:
    return tuple(
        f"--{name}_workers={serving.name}-{name}:{CONTROL_PORT}" for name in ("prefill", "decode")
    )


def _labels(serving: Serving, role: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": serving.name, f"{_LABEL}/role": role}


def _service(
    serving: Serving, name: str, role: str, ports: Mapping[str, int], *, is_headless: bool
) -> Manifest:
    labels = _labels(serving, role)
    spec: Manifest = {
        "selector": labels,
        "ports": [
            {"name": port, "port": number, "targetPort": port} for port, number in ports.items()
        ],
    }
    if is_headless:
        spec["clusterIP"] = "None"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": serving.metadata(name, labels),
        "spec": spec,
    }
