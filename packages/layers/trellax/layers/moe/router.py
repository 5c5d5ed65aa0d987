"""Which experts a token goes to, and how much each counts: `TopKRouter`, `SigmoidRouter`.

    routing = router(x_BSD)
    routing.experts_BSC, routing.weights_BSC

Both take the C experts with the best scores and differ in what a score is. What else there is to choose
(a bias that evens out loads, groups) belongs to both.

Axes: B batch, S sequence, D model, E experts, C choices of a token.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trellax.config import REQUIRED, Required
from trellax.layers.base import BaseLayer, ParameterSpec
from trellax.layers.module import Module, structural
from trellax.layers.moe.groups import check_groups, within_best_groups
from trellax.layers.moe.selection_bias import SelectionBias


class Routing(NamedTuple):
    """A router's decision.

    Attributes:
        experts_BSC: int32 indices of experts, all different within a token, the best first.
        weights_BSC: float32 weights of their outputs.
        loads_E: int32 number of choices that fell on each expert.
    """

    experts_BSC: Int[Array, "B S C"]
    weights_BSC: Float[Array, "B S C"]
    loads_E: Int[Array, " E"]


class Router(BaseLayer):
    """Interface, and all but the scores. Parameters: `weight [D, E]`.

    Computed in float32. Adds the losses `load_balance` and `z_loss`, and the summaries `max_load_fraction` and
    `min_load_fraction` (share of all choices that the busiest and the idlest expert got; 1/E is even) and
    `entropy` (mean over tokens, in nats; ln E is even). Loads count all tokens of the call on all devices, padding
    included: a layer in a feed-forward layer's place is not told which tokens are padding.
    """

    selection_bias: SelectionBias | None

    class Config(BaseLayer.Config):
        """
        Fields:
            input_dim: D.
            num_experts: E.
            experts_per_token: C.
            normalize_weights: whether a token's weights are scaled to sum to 1 (Mixtral,
                arXiv:2401.04088, section 2.1; Qwen3) rather than being the scores (Switch).
            scaling_factor: factor of the weights after that (2.5 in DeepSeek-V3).
            selection_bias: maps scores to those that experts are chosen by, and learns from loads; None for none.
            num_groups: experts stand in so many groups of neighbours, of which a token uses `groups_per_token`
                (DeepSeek-V3, arXiv:2412.19437, section 2.1.2: fewer devices to send to); None for no groups.
            groups_per_token: groups that a token's experts may lie in; None for no groups.
            load_balance_weight: factor of the load-balance loss (Fedus et al. 2021, Switch,
                arXiv:2101.03961, equation 4; for C > 1 loads count all choices).
            z_loss_weight: factor of the mean squared log-normaliser (Zoph et al. 2022, ST-MoE,
                arXiv:2202.08906, equation 5).
        """

        input_dim: Required[int] = REQUIRED
        num_experts: Required[int] = REQUIRED
        experts_per_token: Required[int] = REQUIRED
        normalize_weights: bool = True
        scaling_factor: float = 1.0
        selection_bias: SelectionBias.Config | None = None
        num_groups: int | None = None
        groups_per_token: int | None = None
        load_balance_weight: float = 0.01
        z_loss_weight: float = 1e-3

        def derive(self) -> None:
            super().derive()
            self.provide(self.selection_bias, num_experts=self.num_experts)

        def check(self) -> None:
            super().check()
            E, C = self.num_experts, self.experts_per_token
            if not 1 <= C <= E:
                raise ValueError(f"experts_per_token={C} of {E} experts; use 1 to {E}.")
            check_groups(E, C, self.num_groups, self.groups_per_token)

    def __init__(self, cfg: Config, *, name: str, parent: Module | None = None):
        super().__init__(cfg, name=name, parent=parent)
        self.add_child("selection_bias", cfg.selection_bias)

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

    def forward(self, x_BSD: Float[Array, "B S D"]) -> Routing:
        """Returns each token's experts, and adds losses and summaries."""
        logits_BSE = x_BSD.astype(jnp.float32) @ self.parameters["weight"].astype(jnp.float32)
        scores_BSE = self._scores(logits_BSE)
        experts_BSC = self._chosen(jax.lax.stop_gradient(scores_BSE))
        # Compared rather than indexed: XLA splits the sums over devices and fuses the comparison.
        is_chosen_BSCE = experts_BSC[..., None] == jnp.arange(self.cfg.num_experts)
        weights_BSC = jnp.where(is_chosen_BSCE, scores_BSE[..., None, :], 0.0).sum(axis=-1)
        loads_E = is_chosen_BSCE.sum(axis=(0, 1, 2), dtype=jnp.int32)
        if self.cfg.normalize_weights:
            weights_BSC /= jnp.maximum(weights_BSC.sum(axis=-1, keepdims=True), _TINY)
        if self.selection_bias is not None:
            self.selection_bias.observe(loads_E)
        self._report(logits_BSE, scores_BSE, loads_E / experts_BSC.size)
        return Routing(experts_BSC, self.cfg.scaling_factor * weights_BSC, loads_E)

    def _scores(self, logits_BSE: Array) -> Array:
        """Returns what experts are chosen and weighted by: positive, float32."""
        raise NotImplementedError

    def _chosen(self, scores_BSE: Array) -> Array:
        cfg = self.cfg
        if self.selection_bias is not None:
            scores_BSE = self.selection_bias(scores_BSE)
        if cfg.num_groups is not None:
            scores_BSE = within_best_groups(scores_BSE, cfg.num_groups, cfg.groups_per_token)
        return jax.lax.top_k(scores_BSE, cfg.experts_per_token)[1]

    def _report(self, logits_BSE: Array, scores_BSE: Array, load_fractions_E: Array) -> None:
        probs_BSE = scores_BSE / jnp.maximum(scores_BSE.sum(axis=-1, keepdims=True), _TINY)
        balance = self.cfg.num_experts * jnp.sum(load_fractions_E * probs_BSE.mean(axis=(0, 1)))
        z_loss = jnp.mean(jnp.square(jax.nn.logsumexp(logits_BSE, axis=-1)))
        self.add_loss("load_balance", self.cfg.load_balance_weight * balance)
        self.add_loss("z_loss", self.cfg.z_loss_weight * z_loss)
        self.add_summary("max_load_fraction", load_fractions_E.max())
        self.add_summary("min_load_fraction", load_fractions_E.min())
        entropy_BS = jax.scipy.special.entr(jax.lax.stop_gradient(probs_BSE)).sum(axis=-1)
        self.add_summary("entropy", entropy_BS.mean())

    @structural
    def forward_flops_per_token(self, sequence_length: int) -> float:
        return 2.0 * self.cfg.input_dim * self.cfg.num_experts


_TINY = 1e-20
"""Keeps a sum of scores that are all zero in float32 from dividing zero by zero."""


class TopKRouter(Router):
    """Scores are probabilities: a softmax over all experts (Mixtral, Qwen3)."""

    def _scores(self, logits_BSE: Array) -> Array:
        return jax.nn.softmax(logits_BSE)


class SigmoidRouter(Router):
    """Each expert is scored by itself: a sigmoid (DeepSeek-V3, arXiv:2412.19437, equations 12 to 15)."""

    def _scores(self, logits_BSE: Array) -> Array:
        return jax.nn.sigmoid(logits_BSE)
