"""Serving what was trained, with the training modules themselves.

from trellax.inference import EngineConfig, Request, SamplingParams, build_core

Families have interfaces of their own: `trellax.inference.engine`, `.server`, `.batch`, `.disaggregation`, …
"""

from trellax.inference.engine import EngineConfig, build_core
from trellax.inference.generation import Generator, Sampling
from trellax.inference.requests import Output, Request, SamplingParams

__all__ = [
    "EngineConfig",
    "Generator",
    "Output",
    "Request",
    "Sampling",
    "SamplingParams",
    "build_core",
]
