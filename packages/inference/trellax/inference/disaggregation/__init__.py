"""Prefilling and decoding in different places: what is handed over, how it travels, who does what, and how it is deployed.

`DisaggregatedEngine` is an engine over workers of two roles. `LocalPrefillWorker` and `LocalDecodeWorker` make workers of
engines; `WorkerServer` lends one to other processes, where `RemotePrefillWorker` or `RemoteDecodeWorker` stands for it. A
`HandOver` goes from one to the other through a `PageChannel` within a process, or from a `PageSender` to a `PageReceiver`.
`run_worker` and `run_router` are the processes of the command line. `fused_manifests` and `disaggregated_manifests` write all of this down for Kubernetes.
"""

from trellax.inference.disaggregation.channel import PageChannel
from trellax.inference.disaggregation.codec import from_json, to_json
from trellax.inference.disaggregation.delivery import Delivery, Receiver, Sender
from trellax.inference.disaggregation.discovery import follow
from trellax.inference.disaggregation.engine import DisaggregatedEngine, DisaggregatedStats
from trellax.inference.disaggregation.errors import (
    ConnectionLostError,
    HandshakeError,
    NoRoomError,
    ProtocolError,
    RefusedError,
    TransportError,
    UnreachableError,
    WorkerError,
)
from trellax.inference.disaggregation.handover import HandOver, flat_arrays, nested_arrays
from trellax.inference.disaggregation.layout import StateLayout
from trellax.inference.disaggregation.local_decode import LocalDecodeWorker
from trellax.inference.disaggregation.local_prefill import LocalPrefillWorker
from trellax.inference.disaggregation.manifests import (
    Role,
    disaggregated_manifests,
    fused_manifests,
    to_text,
)
from trellax.inference.disaggregation.pods import Accelerator, Serving
from trellax.inference.disaggregation.process import WorkerSettings, run_worker
from trellax.inference.disaggregation.receiver import PageReceiver
from trellax.inference.disaggregation.remote import RemoteDecodeWorker, RemotePrefillWorker
from trellax.inference.disaggregation.role import EngineRole
from trellax.inference.disaggregation.router import run_router
from trellax.inference.disaggregation.sender import PageSender
from trellax.inference.disaggregation.worker_server import WorkerServer
from trellax.inference.disaggregation.workers import (
    DecodeEngine,
    DecodeWorker,
    Gauges,
    Prefilled,
    PrefillEngine,
    PrefillWorker,
)

__all__ = [
    "Accelerator",
    "ConnectionLostError",
    "DecodeEngine",
    "DecodeWorker",
    "Delivery",
    "DisaggregatedEngine",
    "DisaggregatedStats",
    "EngineRole",
    "Gauges",
    "HandOver",
    "HandshakeError",
    "LocalDecodeWorker",
    "LocalPrefillWorker",
    "NoRoomError",
    "PageChannel",
    "PageReceiver",
    "PageSender",
    "PrefillEngine",
    "PrefillWorker",
    "Prefilled",
    "ProtocolError",
    "Receiver",
    "RefusedError",
    "RemoteDecodeWorker",
    "RemotePrefillWorker",
    "Role",
    "Sender",
    "Serving",
    "StateLayout",
    "TransportError",
    "UnreachableError",
    "WorkerError",
    "WorkerServer",
    "WorkerSettings",
    "disaggregated_manifests",
    "flat_arrays",
    "follow",
    "from_json",
    "fused_manifests",
    "nested_arrays",
    "run_router",
    "run_worker",
    "to_json",
    "to_text",
]
