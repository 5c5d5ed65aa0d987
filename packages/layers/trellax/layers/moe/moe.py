"""A mixture of experts in place of a feed-forward layer.

    replace_config(trainer_cfg, FeedForwardLayer, MoELayer.default_config().set(num_experts=8))

The layer only wires its children: a router says which experts a token goes to, a dispatch brings it there and back,
whatever devices they are on, experts transform rows. Each can be replaced alone.

Axes: B batch, S sequence, D model, C choices of a token, E experts, R rows, L experts of a device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array, Float

from trellax.config import REQUIRED, InstantiableConfig, Required
from trellax.layers.base import BaseLayer
from trellax.layers.dropout import Dropout
from trellax.layers.feed_forward import resolved_hidden_dim
from trellax.layers.module import Module, functional, structural
from trellax.layers.moe.dispatch import Dispatch, Experts
from trellax.layers.moe.dropless import DroplessDispatch
from trellax.layers.moe.experts import GroupedExperts
from trellax.layers.moe.router import Router, TopKRouter
from trellax.parallel import RunShape


class MoELayer(BaseLayer):
    """`Σ_c weight_c · expert_c(x)` over the experts that the router chose for a token."""

    router: Router
    dispatch: Dispatch
    experts: BaseLayer
    shared_expert: BaseLayer | None
    dropout: BaseLayer

    class Config(BaseLayer.Config):
        """
        The first four fields are those of `FeedForwardLayer`, so `replace_config` carries them over.

        Fields:
            input_dim: D, size of input and output.
            hidden_dim: F of one expert, or a config of a function from `input_dim` to F.
            activation: name for `activation_fn`.
            gated: whether the experts are gated.
            num_experts: E.
            experts_per_token: C.
            router: chooses the experts.
            dispatch: brings tokens to the experts and back.
            experts: transforms rows that are sorted by expert: `experts(rows_RD, group_sizes_L)`. Parameter axes
                called "experts" may be cut, and "mlp" where the results of the parts add up.
            shared_expert: works on every token, added to the others' result; None for none.
            dropout: of the result.
        """

        input_dim: Required[int] = REQUIRED
        hidden_dim: Required[int | InstantiableConfig] = REQUIRED
        activation: str = "silu"
        gated: bool = True
        num_experts: Required[int] = REQUIRED
        experts_per_token: int = 2
        router: Router.Config = TopKRouter.default_config()
        dispatch: Dispatch.Config = DroplessDispatch.default_config()
        experts: BaseLayer.Config = GroupedExperts.default_config()
        shared_expert: BaseLayer.Config | None = None
        dropout: BaseLayer.Config = Dropout.default_config()

        def derive(self) -> None:
            super().derive()
            self.hidden_dim = resolved_hidden_dim(self.hidden_dim, self.input_dim)
            D, E = self.input_dim, self.num_experts
            self.provide(
                self.router,
                input_dim=D,
                num_experts=E,
                experts_per_token=self.experts_per_token,
            )
            self.provide(self.dispatch, num_experts=E)
            self.provide(
                self.experts,
                input_dim=D,
                num_experts=E,
                hidden_dim=self.hidden_dim,
                activation=self.activation,
                gated=self.gated,
            )
            self.provide(self.shared_expert, input_dim=D)

        def mesh_refusal(self, run: RunShape) -> str | None:
            """Refuses meshes over whose devices the experts cannot be shared out evenly."""
            E, size = self.num_experts, run.size("expert")
            if E % size == 0:
                return None
            divisors = [n for n in range(1, E + 1) if E % n == 0]
            nearest = min(divisors, key=lambda n: (abs(n - size), n))
            return (
                f"num_experts={E} experts do not divide among expert={size} devices; "
                f"the nearest mesh has expert={nearest}."
            )

    def __init__(self, cfg: Config, *, name: str, parent: Module | None = None):
        super().__init__(cfg, name=name, parent=parent)
        for child in ("router", "dispatch", "experts", "shared_expert", "dropout"):
            self.add_child(child, getattr(cfg, child))

    def forward(self, x_BSD: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Returns the transformed tokens."""
        routing = self.router(x_BSD)
        routing = routing._replace(
            experts_BSC=self.tag(routing.experts_BSC, "router_experts"),
            weights_BSC=self.tag(routing.weights_BSC, "router_weights"),
        )
        y_BSD = self.dropout(self.dispatch(x_BSD, routing, self._experts()))
        if self.shared_expert is not None:
            y_BSD += self.shared_expert(x_BSD)
        return y_BSD

    def _experts(self) -> Experts:
        context = self.context

        def fn(params: Any, rows_RD: Array, group_sizes_L: Array | np.ndarray) -> Array:
            result, outputs = functional(
                self.experts,
                params=params,
                args=(rows_RD, group_sizes_L),
                is_training=context.is_training,
            )
            if any(
                (outputs.summaries, outputs.losses, outputs.state_updates, outputs.module_outputs)
            ):
                raise ValueError(
                    f"{self.experts.path()} adds losses, summaries, outputs or state updates, but experts run on each "
                    f"device's rows apart, where these have no place; add them in the router, the dispatch or around "
                    f"the layer."
                )
            return result

        return Experts(self.parameters["experts"], self.experts.all_parameter_specs(), fn)

    @structural
    def forward_flops_per_token(self, sequence_length: int) -> float:
        """Returns the FLOPs of the router and of the experts that one token uses."""
        others = super().forward_flops_per_token(sequence_length)
        expert = self.experts.forward_flops_per_token(sequence_length)
        return others + (self.cfg.experts_per_token - 1) * expert
