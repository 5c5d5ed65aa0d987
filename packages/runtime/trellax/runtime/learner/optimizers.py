"""Optimizers on optax: each gives a direction; decay, rate and per-path multipliers are shared.

AdamW.default_config().set(beta2=0.95, weight_decay=0.1)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from trellax.config import Configurable, DType
from trellax.runtime.learner.parameters import Parameter, map_parameters

ScheduleFn = Callable[[jax.Array], jax.Array]


class Optimizer(Configurable):
    """Interface: an optax transformation for a tree of `Parameter`s.

    The update of a parameter p is `-lr(step) * lr_multiplier * (direction + decay * p)`, with
    decoupled weight decay (arXiv:1711.05101) that is scaled by the learning rate.
    """

    class Config(Configurable.Config):
        weight_decay: float = 0.0

    def direction(self, parameters: Any) -> optax.GradientTransformation:
        """Returns what turns gradients into (positive) directions."""
        raise NotImplementedError

    def transformation(self, parameters: Any, schedule: ScheduleFn) -> optax.GradientTransformation:
        """Returns what turns gradients into updates that are added to the parameters."""
        decay = self.cfg.weight_decay
        decays = map_parameters(lambda p: decay * p.weight_decay_multiplier, parameters)
        rates = map_parameters(lambda p: p.learning_rate_multiplier, parameters)
        return optax.chain(
            self.direction(parameters), _add_decayed(decays), _scale_by_rate(schedule, rates)
        )


class Sgd(Optimizer):
    """Stochastic gradient descent with optional Nesterov momentum."""

    class Config(Optimizer.Config):
        momentum: float = 0.0
        nesterov: bool = False

    def direction(self, parameters: Any) -> optax.GradientTransformation:
        if not self.cfg.momentum:
            return optax.identity()
        return optax.trace(self.cfg.momentum, self.cfg.nesterov)


class AdamW(Optimizer):
    """Adam with decoupled weight decay (arXiv:1412.6980, arXiv:1711.05101)."""

    class Config(Optimizer.Config):
        beta1: float = 0.9
        beta2: float = 0.999
        epsilon: float = 1e-8
        weight_decay: float = 0.1
        momentum_dtype: DType | None = None

    def direction(self, parameters: Any) -> optax.GradientTransformation:
        cfg = self.cfg
        return optax.scale_by_adam(cfg.beta1, cfg.beta2, cfg.epsilon, mu_dtype=cfg.momentum_dtype)


class Lion(Optimizer):
    """Sign of an interpolated momentum (arXiv:2302.06675)."""

    class Config(Optimizer.Config):
        beta1: float = 0.9
        beta2: float = 0.99
        momentum_dtype: DType | None = None

    def direction(self, parameters: Any) -> optax.GradientTransformation:
        return optax.scale_by_lion(self.cfg.beta1, self.cfg.beta2, self.cfg.momentum_dtype)


class Adafactor(Optimizer):
    """Factored second moments, so that its state is sublinear in memory (arXiv:1804.04235)."""

    class Config(Optimizer.Config):
        decay_rate: float = 0.8
        clipping_threshold: float | None = 1.0
        multiply_by_parameter_scale: bool = False
        min_dim_size_to_factor: int = 128

    def direction(self, parameters: Any) -> optax.GradientTransformation:
        cfg = self.cfg
        parts = [
            optax.scale_by_factored_rms(
                decay_rate=cfg.decay_rate, min_dim_size_to_factor=cfg.min_dim_size_to_factor
            )
        ]
        if cfg.clipping_threshold is not None:
            parts.append(optax.clip_by_block_rms(cfg.clipping_threshold))
        if cfg.multiply_by_parameter_scale:
            parts.append(optax.scale_by_param_block_rms())
        return optax.chain(*parts)


class Muon(Optimizer):
    """Orthogonalized momentum for matrices, Adam for the rest (Jordan et al. 2024).

    What the matrix of a parameter is (which dims are inputs, which outputs, which a stack) is read
    from its spec. Embeddings and vectors have no fan-in or no fan-out and go to Adam. Updates have
    AdamW's typical root mean square, so its learning rates carry over (arXiv:2502.16982).
    """

    class Config(Optimizer.Config):
        beta: float = 0.95
        newton_schulz_steps: int = 5
        update_rms: float = 0.2
        adam_beta1: float = 0.9
        adam_beta2: float = 0.95
        adam_epsilon: float = 1e-8
        weight_decay: float = 0.1

    def direction(self, parameters: Any) -> optax.GradientTransformation:
        cfg = self.cfg
        labels = map_parameters(lambda p: "muon" if _is_matrix(p) else "adam", parameters)
        numbers = map_parameters(lambda p: _dimension_numbers(p), parameters)
        muon = optax.chain(
            optax.contrib.scale_by_muon(
                ns_steps=cfg.newton_schulz_steps,
                beta=cfg.beta,
                weight_dimension_numbers=lambda params: _numbers_like(params, numbers),
            ),
            _scale_by_width(parameters, cfg.update_rms),
        )
        adam = optax.scale_by_adam(cfg.adam_beta1, cfg.adam_beta2, cfg.adam_epsilon)
        return optax.partition({"muon": muon, "adam": adam}, labels)


def _is_matrix(parameter: Parameter) -> bool:
    return bool(parameter.spec.fan_in) and bool(parameter.spec.fan_out)


def _dimension_numbers(parameter: Parameter) -> Any:
    if not _is_matrix(parameter):
        return None
    spec = parameter.spec
    return optax.contrib.MuonDimensionNumbers(spec.fan_in, spec.fan_out)


def _numbers_like(params: Any, numbers: Any) -> Any:
    """Masks `numbers` to the leaves that `optax.partition` hands to Muon."""
    is_masked = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731
    return jax.tree.map(lambda p, n: p if is_masked(p) else n, params, numbers, is_leaf=is_masked)


def _scale_by_width(parameters: Any, update_rms: float) -> optax.GradientTransformation:
    def factor(parameter: Parameter) -> float:
        shape, spec = parameter.spec.shape, parameter.spec
        fans = [1, 1]
        for i, dims in enumerate((spec.fan_in, spec.fan_out)):
            for d in dims:
                fans[i] *= shape[d]
        return update_rms * max(fans) ** 0.5

    factors = map_parameters(factor, parameters)

    def scale(updates: Any, params: Any) -> Any:
        is_masked = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731
        return jax.tree.map(
            lambda u, f: u if is_masked(u) else u * f, updates, factors, is_leaf=is_masked
        )

    return optax.stateless(scale)


def _add_decayed(decays: Any) -> optax.GradientTransformation:
    def add(updates: Any, params: Any) -> Any:
        return jax.tree.map(lambda u, p, d: u + d * p if d else u, updates, params, decays)

    return optax.stateless(add)


def _scale_by_rate(schedule: ScheduleFn, multipliers: Any) -> optax.GradientTransformation:
    def init(params: Any) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        rate = schedule(state.count)
        scaled = jax.tree.map(lambda u, m: (-rate * m).astype(u.dtype) * u, updates, multipliers)
        return scaled, optax.ScaleByScheduleState(count=state.count + 1)

    return optax.GradientTransformation(init, update)
