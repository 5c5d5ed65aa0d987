"""Learning-rate schedules: functions of the number of updates that were applied.

    schedule = CosineSchedule.default_config().set(peak=3e-4, warmup_steps=2000, total_steps=500_000)
    learning_rate = schedule.instantiate()(step)

A schedule that needs the length of training gets `total_steps` from its parent.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from trellax.config import REQUIRED, Configurable, Required


class Schedule(Configurable):
    """Interface: `schedule(step) -> learning rate`, int32 scalar to float32 scalar."""

    class Config(Configurable.Config):
        """
        Fields:
            peak: the highest value.
            warmup_steps: updates of linear rise from `peak / warmup_steps` to `peak`.
            total_steps: updates until the end of training.
        """

        peak: Required[float] = REQUIRED
        warmup_steps: int = 0
        total_steps: Required[int] = REQUIRED

        def check(self) -> None:
            if self.warmup_steps < 0:  # One that outlasts training is fine: a short trial run.
                raise ValueError(f"warmup_steps={self.warmup_steps} must not be negative.")

    def __call__(self, step: jax.Array) -> jax.Array:
        # The first update must not be lost to a rate of 0, so warm-up starts one step in.
        warmup = (step + 1) / max(self.cfg.warmup_steps, 1)
        after = self.after_warmup(jnp.maximum(step - self.cfg.warmup_steps, 0))
        return jnp.asarray(self.cfg.peak * jnp.minimum(warmup, 1.0) * after, jnp.float32)

    def after_warmup(self, step: jax.Array) -> Any:
        """Returns the fraction of the peak `step` updates after warm-up."""
        raise NotImplementedError

    @property
    def steps_after_warmup(self) -> int:
        return max(self.cfg.total_steps - self.cfg.warmup_steps, 1)


class ConstantSchedule(Schedule):
    """Stays at the peak."""

    def after_warmup(self, step: jax.Array) -> Any:
        return 1.0


class CosineSchedule(Schedule):
    """Half a cosine from the peak to `final_fraction` of it (arXiv:1608.03983)."""

    class Config(Schedule.Config):
        final_fraction: float = 0.1

    def after_warmup(self, step: jax.Array) -> Any:
        return optax.cosine_decay_schedule(1.0, self.steps_after_warmup, self.cfg.final_fraction)(
            step
        )


class LinearSchedule(Schedule):
    """A straight line from the peak to `final_fraction` of it."""

    class Config(Schedule.Config):
        final_fraction: float = 0.0

    def after_warmup(self, step: jax.Array) -> Any:
        return optax.linear_schedule(1.0, self.cfg.final_fraction, self.steps_after_warmup)(step)


class InverseSqrtSchedule(Schedule):
    """Falls as 1/sqrt(step) from the end of warm-up (arXiv:1706.03762)."""

    def after_warmup(self, step: jax.Array) -> Any:
        start = max(self.cfg.warmup_steps, 1)
        return jnp.sqrt(start / (start + step))


class WarmupStableDecaySchedule(Schedule):
    """Holds the peak, then falls linearly over the last `decay_steps` (arXiv:2404.06395)."""

    class Config(Schedule.Config):
        decay_steps: Required[int] = REQUIRED
        final_fraction: float = 0.0

    def after_warmup(self, step: jax.Array) -> Any:
        start = self.steps_after_warmup - self.cfg.decay_steps
        return optax.linear_schedule(1.0, self.cfg.final_fraction, self.cfg.decay_steps, start)(
            step
        )
