"""The engine: requests come at any time and are computed together, a step after the other."""

from trellax.inference.engine.build import build_core, serving_model
from trellax.inference.engine.config import EngineConfig
from trellax.inference.engine.core import EngineCore, HandedOver
from trellax.inference.engine.engine import Engine, ModelCard
from trellax.inference.engine.speculation import NgramSpeculation, Speculation
from trellax.inference.engine.stats import EngineStats

__all__ = [
    "Engine",
    "EngineConfig",
    "EngineCore",
    "EngineStats",
    "HandedOver",
    "ModelCard",
    "NgramSpeculation",
    "Speculation",
    "build_core",
    "serving_model",
]
