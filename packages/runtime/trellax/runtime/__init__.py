"""Training: trainer, learner, input, checkpoints, evaluation and writers, each replaceable.

from trellax.runtime import Trainer
"""

from trellax.runtime.checkpoint import (
    Checkpointer,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    load_checkpoint,
)
from trellax.runtime.compilation_cache import use_compilation_cache
from trellax.runtime.evaluator import Evaluator
from trellax.runtime.files import write_atomically
from trellax.runtime.input import Input
from trellax.runtime.learner import (
    Adafactor,
    AdamW,
    ConstantSchedule,
    CosineSchedule,
    InverseSqrtSchedule,
    Learner,
    LinearSchedule,
    Lion,
    Muon,
    ParameterRule,
    Sgd,
    WarmupStableDecaySchedule,
)
from trellax.runtime.trainer import (
    TRAIN_FLOPS_PER_FORWARD_FLOP,
    ExecutableMismatchError,
    NonFiniteError,
    Outcome,
    Profiler,
    Trainer,
    TrainProgram,
)

__all__ = [
    "TRAIN_FLOPS_PER_FORWARD_FLOP",
    "Adafactor",
    "AdamW",
    "CheckpointMismatchError",
    "CheckpointNotFoundError",
    "Checkpointer",
    "ConstantSchedule",
    "CosineSchedule",
    "Evaluator",
    "ExecutableMismatchError",
    "Input",
    "InverseSqrtSchedule",
    "Learner",
    "LinearSchedule",
    "Lion",
    "Muon",
    "NonFiniteError",
    "Outcome",
    "ParameterRule",
    "Profiler",
    "Sgd",
    "TrainProgram",
    "Trainer",
    "WarmupStableDecaySchedule",
    "load_checkpoint",
    "use_compilation_cache",
    "write_atomically",
]
