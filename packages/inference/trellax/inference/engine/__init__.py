"""The engine: requests come at any time and are computed together, a step after the other."""

from trellax.inference.engine.build import build_core, serving_model
from trellax.inference.engine.config import EngineConfig
from trellax.inference.engine.core import EngineCore, HandedOver
from trellax.inference.engine.draft_model import DraftModelSpeculation
from trellax.inference.engine.engine import Engine, ModelCard
from trellax.inference.engine.ngram_speculation import NgramSpeculation
from trellax.inference.engine.speculation import Speculation
from trellax.inference.engine.stats import EngineStats

__all__ = [
    "DraftModelSpeculation",
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
