"""From gradients to new parameters: learner, optimizers, schedules, per-path rules."""

from trellax.runtime.learner.learner import Learner
from trellax.runtime.learner.optimizers import Adafactor, AdamW, Lion, Muon, Optimizer, Sgd
from trellax.runtime.learner.parameters import Parameter, ParameterRule
from trellax.runtime.learner.schedules import (
    ConstantSchedule,
    CosineSchedule,
    InverseSqrtSchedule,
    LinearSchedule,
    Schedule,
    WarmupStableDecaySchedule,
)
from trellax.runtime.learner.state_specs import StateSpec

__all__ = [
    "Adafactor",
    "AdamW",
    "ConstantSchedule",
    "CosineSchedule",
    "InverseSqrtSchedule",
    "Learner",
    "LinearSchedule",
    "Lion",
    "Muon",
    "Optimizer",
    "Parameter",
    "ParameterRule",
    "Schedule",
    "Sgd",
    "StateSpec",
    "WarmupStableDecaySchedule",
]
