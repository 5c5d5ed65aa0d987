"""An OpenAI-compatible server: completions, chats, streams, metrics, and a page to watch them."""

from trellax.inference.server.app import create_app
from trellax.inference.server.interface import (
    EmbeddingEngine,
    Engine,
    EngineStats,
    HistogramSnapshot,
    ModelCard,
)
from trellax.inference.server.metrics import EngineMetrics
from trellax.inference.server.run import Server, run_server
from trellax.inference.server.settings import Limits, ServerSettings

__all__ = [
    "EmbeddingEngine",
    "Engine",
    "EngineMetrics",
    "EngineStats",
    "HistogramSnapshot",
    "Limits",
    "ModelCard",
    "Server",
    "ServerSettings",
    "create_app",
    "run_server",
]
