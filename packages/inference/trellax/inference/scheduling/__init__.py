"""Scheduling: what the device computes next, and where keys and values are kept. Host code, without JAX.

A step's plan is a pure function of the state (`plan_step`); the state changes by `apply`, by results and by requests that come
and go. See `scheduler` for the policy, `pages` for the account of pages, `plans` for what a device gets.
"""

from trellax.inference.scheduling.limits import AdmissionError, Limits, QueueSize
from trellax.inference.scheduling.pages import PageManager
from trellax.inference.scheduling.plans import DecodeRow, PrefillChunk, StepPlan, Swap
from trellax.inference.scheduling.scheduler import plan_step
from trellax.inference.scheduling.sequence import Sequence, Status
from trellax.inference.scheduling.state import SchedulerState

__all__ = [
    "AdmissionError",
    "DecodeRow",
    "Limits",
    "PageManager",
    "PrefillChunk",
    "QueueSize",
    "SchedulerState",
    "Sequence",
    "StepPlan",
    "Status",
    "Swap",
    "plan_step",
]
