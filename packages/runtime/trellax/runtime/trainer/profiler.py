"""Profiles of chosen steps, as traces that TensorBoard's and XProf's trace viewers read."""

from __future__ import annotations

import os

import jax

from trellax.config import Configurable


class Profiler(Configurable):
    """Traces `num_steps` steps from each step in `start_steps` on."""

    class Config(Configurable.Config):
        """
        Fields:
            start_steps: steps before which a trace starts; none by default.
            num_steps: how many steps a trace covers.
        """

        start_steps: tuple[int, ...] = ()
        num_steps: int = 3

    def __init__(self, cfg: Config, *, directory: str):
        super().__init__(cfg)
        self._directory = os.path.join(directory, "profile")
        self._until: int | None = None

    def before_step(self, step: int) -> None:
        """Starts a trace if one is due; call before dispatching `step`."""
        if self._until is None and step in self.cfg.start_steps:
            jax.profiler.start_trace(os.path.join(self._directory, f"step_{step}"))
            self._until = step + self.cfg.num_steps - 1

    def after_step(self, step: int, result: object) -> None:
        """Ends a trace that `step` completes, once `result` is ready."""
        if self._until is not None and step >= self._until:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends a running trace."""
        if self._until is not None:
            jax.profiler.stop_trace()
            self._until = None
