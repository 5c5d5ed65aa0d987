"""Steps on the device: their shapes, their programs, and the model and caches that they run on."""

from trellax.inference.execution.compiled import CompiledTooLateError, Programs
from trellax.inference.execution.draft_runner import DraftInput, DraftRunner
from trellax.inference.execution.drafts import Drafts, no_drafts
from trellax.inference.execution.inputs import tile_starts
from trellax.inference.execution.runner import (
    MAX_BIASES,
    Drawn,
    Pass,
    Runner,
    RunnerSizes,
)
from trellax.inference.execution.serving_model import (
    WeightFormat,
    serving_config,
    serving_params,
)
from trellax.inference.execution.shapes import StepShape, StepShapes

__all__ = [
    "MAX_BIASES",
    "CompiledTooLateError",
    "DraftInput",
    "DraftRunner",
    "Drafts",
    "Drawn",
    "Pass",
    "Programs",
    "Runner",
    "RunnerSizes",
    "StepShape",
    "StepShapes",
    "WeightFormat",
    "no_drafts",
    "serving_config",
    "serving_params",
    "tile_starts",
]
