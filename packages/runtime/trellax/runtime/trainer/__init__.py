"""Training: the loop, the step, where arrays live, and how runs stop and resume."""

from trellax.runtime.trainer.executable import ExecutableMismatchError
from trellax.runtime.trainer.metrics import TRAIN_FLOPS_PER_FORWARD_FLOP, Speedometer
from trellax.runtime.trainer.placement import Placement
from trellax.runtime.trainer.profiler import Profiler
from trellax.runtime.trainer.program import TrainProgram
from trellax.runtime.trainer.signals import StopSignals
from trellax.runtime.trainer.train_step import EvaluationStep, TrainStep
from trellax.runtime.trainer.trainer import NonFiniteError, Outcome, Trainer

__all__ = [
    "TRAIN_FLOPS_PER_FORWARD_FLOP",
    "EvaluationStep",
    "ExecutableMismatchError",
    "NonFiniteError",
    "Outcome",
    "Placement",
    "Profiler",
    "Speedometer",
    "StopSignals",
    "TrainProgram",
    "TrainStep",
    "Trainer",
]
