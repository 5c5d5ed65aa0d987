"""Pods of Kubernetes that serve: `Serving` says what, `Accelerator` on what, `pod_template` writes it down.

    serving = Serving("chat", image="registry/trellax:1", experiment="llama3_8b", weights_claim="llama3-8b")
    template = pod_template(serving, labels={...}, accelerator=Accelerator.tpu("tpu-v6e-slice", "2x2", chips=4), ...)

Manifests are plain dicts of JSON values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, Literal

Manifest = dict[str, Any]
Secret = Literal["api-keys", "transport-secret"]

HTTP_PORT = 8000
CONTROL_PORT = 8470
"""Where a worker listens for routers."""
PAGE_PORT = 8471
"""Where a decode worker takes pages."""

_SECRET_FOLDER = "/etc/trellax/secret"
_KEYS_FOLDER = "/etc/trellax/api-keys"
_WEIGHTS_FOLDER = "/weights"
_CACHE_FOLDER = "/var/cache/trellax"


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """What the host of an engine has; `tpu` and `gpu` make the usual ones.

    Attributes:
        resource: the name under which the cluster counts them.
        count: of the host.
        node_selector: labels of the nodes that have them.
    """

    resource: str
    count: int
    node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def tpu(cls, accelerator: str, topology: str, *, chips: int) -> Accelerator:
        """TPUs of Google's Kubernetes: accelerator "tpu-v6e-slice", topology "2x2" of one host, `chips` in it."""
        selector = {
            "cloud.google.com/gke-tpu-accelerator": accelerator,
            "cloud.google.com/gke-tpu-topology": topology,
        }
        return cls("google.com/tpu", chips, selector)

    @classmethod
    def gpu(cls, count: int, *, node_selector: Mapping[str, str] | None = None) -> Accelerator:
        """`count` NVIDIA GPUs in the host."""
        return cls("nvidia.com/gpu", count, dict(node_selector or {}))


@dataclasses.dataclass(frozen=True)
class Serving:
    """A model that is served.

    Attributes:
        name: of the service and of all that belongs to it.
        image: of the containers; has `trellax` on its path.
        experiment: what `trellax serve` is called with.
        weights: a path within the image; "" where `weights_claim` has them.
        weights_claim: a PersistentVolumeClaim with the weights, readable by all pods.
        namespace: of everything; None for the current one.
        arguments: further ones of `trellax serve`, for every role.
        api_keys_secret: a Secret whose entry "keys" has an API key on each line.
        transport_secret: a Secret whose entry "key" all workers and routers must know.
        cpu: of each pod, as Kubernetes writes it.
        memory: of each pod.
        startup_s: seconds that loading weights and compiling may take.
        drain_notice_s: seconds from the decision to end a pod until it is told, in which clients learn to go elsewhere.
        drain_grace_s: seconds that running requests may then take.
    """

    name: str
    image: str
    experiment: str
    weights: str = ""
    weights_claim: str | None = None
    namespace: str | None = None
    arguments: tuple[str, ...] = ()
    api_keys_secret: str | None = None
    transport_secret: str | None = None
    cpu: str = "8"
    memory: str = "64Gi"
    startup_s: int = 1800
    drain_notice_s: int = 10
    drain_grace_s: int = 120

    def __post_init__(self) -> None:
        if bool(self.weights) == (self.weights_claim is not None):
            raise ValueError(
                f"{self.name}: give weights or weights_claim, one of them; weights={self.weights!r}, "
                f"weights_claim={self.weights_claim!r}."
            )

    def metadata(self, name: str, labels: Mapping[str, str]) -> Manifest:
        """Returns the metadata of an object."""
        namespace = {"namespace": self.namespace} if self.namespace is not None else {}
        return {"name": name, **namespace, "labels": dict(labels)}


def pod_template(
    serving: Serving,
    *,
    labels: Mapping[str, str],
    arguments: tuple[str, ...],
    accelerator: Accelerator | None,
    ports: Mapping[str, int],
    secrets: Collection[Secret],
) -> Manifest:
    """Returns the template of a pod.

    Args:
        serving: what is served.
        labels: of the pod.
        arguments: of `trellax serve`, besides those that all pods have.
        accelerator: what it needs; None for a pod that computes nothing.
        ports: that are listened at, by name; it is probed at "http".
        secrets: those that it reads, where the serving has them.
    """
    mounts, volumes = _volumes(serving, secrets)
    container = {
        "name": "trellax",
        "image": serving.image,
        "command": ["trellax", "serve", serving.experiment],
        "args": [*_arguments(serving, secrets), *arguments],
        "env": [{"name": "TRELLAX_CACHE_DIR", "value": _CACHE_FOLDER}],
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "resources": _resources(serving, accelerator),
        "volumeMounts": mounts,
        "securityContext": {"allowPrivilegeEscalation": False},
        # The server drains at SIGTERM; until then it serves whoever has not heard yet.
        "lifecycle": {"preStop": {"sleep": {"seconds": serving.drain_notice_s}}},
        **_probes(serving),
    }
    spec: Manifest = {
        "containers": [container],
        "volumes": volumes,
        "automountServiceAccountToken": False,
        # The sleep counts too, and the last answers have to go out.
        "terminationGracePeriodSeconds": serving.drain_notice_s + serving.drain_grace_s + 15,
    }
    if accelerator is not None and accelerator.node_selector:
        spec["nodeSelector"] = dict(accelerator.node_selector)
    return {"metadata": {"labels": dict(labels)}, "spec": spec}


def _arguments(serving: Serving, secrets: Collection[Secret]) -> list[str]:
    # Routers read the tokenizer that lies beside the weights.
    arguments = [
        f"--weights={serving.weights or _WEIGHTS_FOLDER}",
        f"--drain_grace={serving.drain_grace_s}",
        *serving.arguments,
    ]
    if "api-keys" in secrets and serving.api_keys_secret is not None:
        arguments.append(f"--api_key_file={_KEYS_FOLDER}/keys")
    if "transport-secret" in secrets and serving.transport_secret is not None:
        arguments.append(f"--transport_secret_file={_SECRET_FOLDER}/key")
    return arguments


def _resources(serving: Serving, accelerator: Accelerator | None) -> Manifest:
    amounts = {"cpu": serving.cpu, "memory": serving.memory}
    if accelerator is None:
        return {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "4Gi"}}
    devices = {accelerator.resource: str(accelerator.count)}
    return {
        "requests": {**amounts, **devices},
        "limits": {"memory": serving.memory, **devices},
    }


def _probes(serving: Serving) -> Manifest:
    def probe(path: str, *, period_s: int, num_failures: int) -> Manifest:
        return {
            "httpGet": {"path": path, "port": "http"},
            "periodSeconds": period_s,
            "timeoutSeconds": 5,
            "failureThreshold": num_failures,
        }

    return {
        "startupProbe": probe(
            "/health", period_s=10, num_failures=math.ceil(serving.startup_s / 10)
        ),
        "readinessProbe": probe("/ready", period_s=5, num_failures=1),
        "livenessProbe": probe("/health", period_s=10, num_failures=6),
    }


def _volumes(
    serving: Serving, secrets: Collection[Secret]
) -> tuple[list[Manifest], list[Manifest]]:
    """Returns mounts and volumes."""
    sources: list[tuple[str, str, bool, Manifest]] = [
        ("cache", _CACHE_FOLDER, False, {"emptyDir": {}})
    ]
    for name, folder, secret in (
        ("api-keys", _KEYS_FOLDER, serving.api_keys_secret),
        ("transport-secret", _SECRET_FOLDER, serving.transport_secret),
    ):
        if name in secrets and secret is not None:
            sources.append((name, folder, True, {"secret": {"secretName": secret}}))
    if serving.weights_claim is not None:
        claim = {"claimName": serving.weights_claim, "readOnly": True}
        sources.append(("weights", _WEIGHTS_FOLDER, True, {"persistentVolumeClaim": claim}))
    mounts = [
        {"name": name, "mountPath": folder, "readOnly": read_only}
        for name, folder, read_only, _ in sources
    ]
    return mounts, [{"name": name, **source} for name, _, _, source in sources]
