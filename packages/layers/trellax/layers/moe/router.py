"""Which experts a token goes to, and how much each counts.

    routing = router(x_ND)
    routing.experts_NC, routing.weights_NC

Axes: N tokens (B · S), D model, E experts, C choices of a token.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trellax.config import REQUIRED, Required
from trellax.layers.base import BaseLayer, ParameterSpec
from trellax.layers.module import structural


class Routing(NamedTuple):
    """A router's decision.

    Attributes:
        experts_NC: int32 indices of experts, all different within a token.
        weights_NC: float32 weights of their outputs.
        loads_E: int32 number of choices that fell on each expert.
    """

    experts_NC: Int[Array, "N C"]
    weights_NC: Float[Array, "N C"]
    loads_E: Int[Array, " E"]


class TopKRouter(BaseLayer):
    """The C experts with the highest softmax probability. Parameters: `weight [D, E]`.

    Computed in float32. Adds the losses `load_balance` and `z_loss`, and the summaries
    `max_load_fraction` (share of all choices that the busiest expert got; 1/E is even) and `entropy`
    (mean over tokens, in nats; ln E is even).
    """

    class Config(BaseLayer.Config):
        """
        Fields:
            input_dim: D.
            num_experts: E.
            experts_per_token: C.
            normalize_weights: whether a token's weights are scaled to sum to 1 (Mixtral,
                arXiv:2401.04088, section 2.1) rather than being the probabilities (Switch).
            load_balance_weight: factor of the load-balance loss (Fedus et al. 2021, Switch,
                arXiv:2101.03961, equation 4; for C > 1 loads count all choices).
            z_loss_weight: factor of the mean squared log-normaliser (Zoph et al. 2022, ST-MoE,
                arXiv:2202.08906, equation 5).
        """

        input_dim: Required[int] = REQUIRED
        num_experts: Required[int] = REQUIRED
        experts_per_token: Required[int] = REQUIRED
        normalize_weights: bool = True
        load_balance_weight: float = 0.01
        z_loss_weight: float = 1e-3

        def check(self) -> None:
            super().check()
            if not 1 <= self.experts_per_token <= self.num_experts:
                raise ValueError(
                    f"experts_per_token={self.experts_per_token} of {self.num_experts} experts; "
                    f"use 1 to {self.num_experts}."
                )

    @structural
    def parameter_specs(self) -> dict[str, ParameterSpec]:
        spec = ParameterSpec(
            shape=(self.cfg.input_dim, self.cfg.num_experts),
            dtype=self.cfg.param_dtype,
            initializer=self.cfg.initializer.instantiate(),
            logical_axes=("embed", None),
            fan_in=(0,),
            fan_out=(1,),
        )
        return {"weight": spec}

    def forward(self, x_ND: Float[Array, "N D"]) -> Routing:
        """Returns each token's experts, and adds losses and summaries."""
        logits_NE = x_ND.astype(jnp.float32) @ self.parameters["weight"].astype(jnp.float32)
        probs_NE = jax.nn.softmax(logits_NE)
        weights_NC, experts_NC = jax.lax.top_k(probs_NE, self.cfg.experts_per_token)
        loads_E = jnp.bincount(experts_NC.reshape(-1), length=self.cfg.num_experts)
        if self.cfg.normalize_weights:
            weights_NC /= weights_NC.sum(axis=-1, keepdims=True)
        self._report(logits_NE, probs_NE, loads_E / experts_NC.size)
        return Routing(experts_NC, weights_NC, loads_E)

    def _report(self, logits_NE: Array, probs_NE: Array, load_fractions_E: Array) -> None:
        balance = self.cfg.num_experts * jnp.sum(load_fractions_E * probs_NE.mean(axis=0))
        lse_N = jax.nn.logsumexp(logits_NE, axis=-1)
        self.add_loss("load_balance", self.cfg.load_balance_weight * balance)
        self.add_loss("z_loss", self.cfg.z_loss_weight * jnp.mean(jnp.square(lse_N)))
        self.add_summary("max_load_fraction", load_fractions_E.max())
        entropy = jnp.mean(lse_N - jnp.sum(probs_NE * logits_NE, axis=-1))
        self.add_summary("entropy", jax.lax.stop_gradient(entropy))

    @structural
    def forward_flops_per_token(self, sequence_length: int) -> float:
        return 2.0 * self.cfg.input_dim * self.cfg.num_experts
