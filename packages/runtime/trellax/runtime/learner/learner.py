"""The learner: from gradients to new parameters, with clipping, per-path rules and averaging.

learner = cfg.learner.instantiate(parameter_specs=model.all_parameter_specs())
state = learner.init(params)
params, state, summaries = learner.update(grads, state, params)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from trellax.config import REQUIRED, Configurable, Required
from trellax.runtime.learner.optimizers import AdamW, Optimizer
from trellax.runtime.learner.parameters import ParameterRule, map_parameters, resolve_parameters
from trellax.runtime.learner.schedules import CosineSchedule, Schedule
from trellax.runtime.learner.state_specs import state_specs

Tree = dict[str, Any]


class Learner(Configurable):
    """Owns the optimizer. Parameters that a rule freezes are left out of everything."""

    class Config(Configurable.Config):
        """
        Fields:
            optimizer: gives the direction and the weight decay.
            schedule: learning rate over applied updates.
            max_grad_norm: gradients of a larger global norm are scaled down to it; None: never.
            rules: treatment by parameter path; the first that matches applies.
            ema_decay: keep an exponential moving average of the parameters for evaluation.
            total_steps: length of training in updates, from the trainer.
        """

        optimizer: Optimizer.Config = AdamW.default_config()
        schedule: Schedule.Config = CosineSchedule.default_config()
        max_grad_norm: float | None = 1.0
        rules: tuple[ParameterRule.Config, ...] = ()
        ema_decay: float | None = None
        total_steps: Required[int] = REQUIRED

        def derive(self) -> None:
            self.provide(self.schedule, total_steps=self.total_steps)

        def check(self) -> None:
            if self.ema_decay is not None and not 0 < self.ema_decay < 1:
                raise ValueError(f"ema_decay={self.ema_decay} must lie between 0 and 1.")
            if self.max_grad_norm is not None and self.max_grad_norm <= 0:
                raise ValueError(f"max_grad_norm={self.max_grad_norm} must be positive, or None.")

    def __init__(self, cfg: Config, *, parameter_specs: Tree):
        super().__init__(cfg)
        self.parameters = resolve_parameters(parameter_specs, cfg.rules)
        self._parameter_specs = parameter_specs
        self._schedule = cfg.schedule.instantiate()
        trained = map_parameters(lambda p: p if p.is_trained else None, self.parameters)
        self._optax = cfg.optimizer.instantiate().transformation(trained, self._schedule)

    def split(self, params: Tree) -> tuple[Tree, Tree]:
        """Splits a parameter tree in (trained, frozen); the other's leaves are None in each."""
        trained = map_parameters(lambda p, x: x if p.is_trained else None, self.parameters, params)
        frozen = map_parameters(lambda p, x: None if p.is_trained else x, self.parameters, params)
        return trained, frozen

    def merge(self, trained: Tree, frozen: Tree) -> Tree:
        """The inverse of `split`."""
        pick = lambda a, b: b if a is None else a  # noqa: E731
        return jax.tree.map(pick, trained, frozen, is_leaf=lambda x: x is None)

    def init(self, params: Tree) -> Tree:
        """Returns the learner's state for a full parameter tree."""
        trained, _ = self.split(params)
        state: Tree = {"updates": jnp.zeros([], jnp.int32), "optimizer": self._optax.init(trained)}
        if self.cfg.ema_decay is not None:
            state["ema"] = jax.tree.map(jnp.copy, trained)
        return state

    def state_specs(self) -> Tree:
        """Returns the tree of `StateSpec`s of the state, for shardings."""
        params = jax.tree.map(
            lambda p: jax.ShapeDtypeStruct(p.spec.shape, p.spec.dtype),
            self.parameters,
            is_leaf=lambda p: hasattr(p, "spec"),
        )
        return state_specs(jax.eval_shape(self.init, params), self._parameter_specs)

    def update(self, grads: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree, Tree]:
        """Applies one update.

        Args:
            grads: gradients of the trained parameters (None where frozen), as `split` gives them.
            state: from `init` or the last update.
            params: the full parameter tree.

        Returns:
            (new params, new state, summaries): `grad_norm` before clipping and `learning_rate`,
            float32 scalars.
        """
        trained, frozen = self.split(params)
        grad_norm = optax.tree.norm(grads).astype(jnp.float32)
        grads = self._clip(grads, grad_norm)
        updates, optimizer_state = self._optax.update(grads, state["optimizer"], trained)
        trained = optax.apply_updates(trained, updates)
        new_state: Tree = {"updates": state["updates"] + 1, "optimizer": optimizer_state}
        if self.cfg.ema_decay is not None:
            new_state["ema"] = self._averaged(state["ema"], trained)
        summaries = {
            "grad_norm": grad_norm,
            "learning_rate": self._schedule(state["updates"]),
        }
        return self.merge(trained, frozen), new_state, summaries

    def evaluation_params(self, state: Tree, params: Tree) -> Tree:
        """Returns the parameters to evaluate: the average where one is kept."""
        if self.cfg.ema_decay is None:
            return params
        _, frozen = self.split(params)
        return self.merge(state["ema"], frozen)

    def _clip(self, grads: Tree, grad_norm: jax.Array) -> Tree:
        limit = self.cfg.max_grad_norm
        if limit is None:
            return grads
        scale = jnp.minimum(1.0, limit / jnp.maximum(grad_norm, 1e-12))
        return jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)

    def _averaged(self, ema: Tree, trained: Tree) -> Tree:
        decay = self.cfg.ema_decay
        return jax.tree.map(lambda e, p: e + (1 - decay) * (p - e).astype(e.dtype), ema, trained)
