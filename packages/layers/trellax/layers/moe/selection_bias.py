"""Even loads without a loss: a bias on each expert's score that the loads themselves move.

    router_cfg.set(selection_bias=LoadBalancingBias.default_config(), load_balance_weight=0.0)

Axes: E experts.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trellax.config import REQUIRED, Required
from trellax.layers.base import BaseLayer, ConstantInitializer, ParameterSpec
from trellax.layers.module import structural


class SelectionBias(BaseLayer):
    """Interface: maps scores to those that experts are chosen by, and learns from the loads that follow."""

    class Config(BaseLayer.Config):
        """
        Fields:
            num_experts: E; the router provides it.
        """

        num_experts: Required[int] = REQUIRED

    def forward(self, scores: Float[Array, "... E"]) -> Float[Array, "... E"]:
        """Returns the scores that experts are chosen by; no gradient goes through them."""
        raise NotImplementedError

    def observe(self, loads_E: Int[Array, " E"]) -> None:
        """Takes notice of a call's loads.

        Args:
            loads_E: number of choices that fell on each expert.
        """
        raise NotImplementedError


class LoadBalancingBias(SelectionBias):
    """Up for experts with less than their share of the choices, down for those with more.

    Wang et al. 2024 (arXiv:2408.15664, algorithm 1), as in DeepSeek-V3. The bias decides who is chosen and never
    enters the weights, so no gradient is disturbed. Parameters: `bias [E]`, float32, which no gradient trains;
    where a step has several microbatches, it moves by the mean of what they ask for.
    """

    class Config(SelectionBias.Config):
        """
        Fields:
            rate: by how much a step moves the bias (0.001 in both papers).
        """

        rate: float = 1e-3

        def check(self) -> None:
            super().check()
            if self.rate <= 0:
                raise ValueError(f"rate={self.rate}; use a positive one, such as 0.001.")

    @structural
    def parameter_specs(self) -> dict[str, ParameterSpec]:
        spec = ParameterSpec(
            shape=(self.cfg.num_experts,),
            dtype="float32",
            initializer=ConstantInitializer.default_config().instantiate(),
            logical_axes=(None,),
            trainable=False,
        )
        return {"bias": spec}

    def forward(self, scores: Float[Array, "... E"]) -> Float[Array, "... E"]:
        self.add_summary("max_bias", jnp.abs(self.parameters["bias"]).max())
        return scores + self.parameters["bias"]

    def observe(self, loads_E: Int[Array, " E"]) -> None:
        """Moves the bias of the next step, in training."""
        if not self.is_training:
            return
        loads_E = loads_E.astype(jnp.float32)
        direction_E = jnp.sign(loads_E.mean() - loads_E)
        self.add_state_update("bias", self.parameters["bias"] + self.cfg.rate * direction_E)
