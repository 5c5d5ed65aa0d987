"""Dispatch that serves every choice: rows are sorted by expert, and experts work on as many as there are.

Axes: N tokens of a device, C choices of a token, E experts, L experts of a device, R rows, D model.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trellax.kernels.collectives import ragged_all_to_all_refusal
from trellax.layers.moe.dispatch import Dispatch, ExpertFn, ExpertLayout
from trellax.layers.moe.exchange import Exchange, ExchangeKind, rows_per_pair
from trellax.layers.moe.rows import Slots, collect, sorted_copies, spread
from trellax.parallel import tag


class DroplessDispatch(Dispatch):
    """Sorted rows and grouped matrix products (Gale et al. 2022, MegaBlocks, arXiv:2211.15841).

    Exact on any mesh, by default. What that costs in memory: a device with N tokens of D numbers, among P devices
    that exchange rows, keeps a buffer of P · N · min(C, E/P) rows of D (P/C · min(C, E/P) times what it sends) for
    what might come, and once more for what goes back. A `buffer_factor` f makes it f · N · C rows; what finds no
    place is dropped, passes through the residual connection only, and is told by the summary `overflow_fraction`.
    """

    lost_name = "overflow_fraction"

    class Config(Dispatch.Config):
        """
        Fields:
            buffer_factor: rows that a device has room for, as a multiple of the even share; None for the worst case.
                Used where experts are split over devices.
            exchange: the collective: "dense" works everywhere, "ragged" on TPU and GPU; None for the best that the
                platform has.
        """

        buffer_factor: float | None = None
        exchange: ExchangeKind | None = None

        def check(self) -> None:
            super().check()
            if self.buffer_factor is not None and self.buffer_factor < 1:
                raise ValueError(
                    f"buffer_factor={self.buffer_factor} has no room for even loads; use 1 or more (2 is common), or "
                    f"None for room for any loads."
                )

    def _served(
        self,
        x_ND: Float[Array, "N D"],
        experts_NC: Int[Array, "N C"],
        expert_fn: ExpertFn,
        layout: ExpertLayout,
    ) -> tuple[Float[Array, "N C D"], Int[Array, ""]]:
        if layout.exchange_axes:
            return self._exchanged(x_ND, experts_NC, expert_fn, layout)
        num_local = layout.num_local_experts
        local_NC = experts_NC - layout.first_shared_expert()
        local_NC = jnp.where((local_NC >= 0) & (local_NC < num_local), local_NC, num_local)
        return _grouped(x_ND, local_NC, num_local, expert_fn), jnp.zeros([], jnp.int32)

    def _exchanged(
        self, x_ND: Array, experts_NC: Array, expert_fn: ExpertFn, layout: ExpertLayout
    ) -> tuple[Array, Array]:
        pair_rows = rows_per_pair(
            *experts_NC.shape,
            num_peers=layout.num_peers,
            num_local_experts=layout.num_local_experts,
            buffer_factor=self.cfg.buffer_factor,
        )
        exchange = Exchange(
            sorted_copies(experts_NC, layout.num_experts),
            axes=layout.exchange_axes,
            num_peers=layout.num_peers,
            pair_rows=pair_rows,
            kind=self._exchange_kind(),
        )
        rows_RD, expert_R, num_lost = exchange.there(x_ND)
        rows_R1D = _grouped(
            tag(rows_RD, "moe_rows"), expert_R[:, None], layout.num_local_experts, expert_fn
        )
        return exchange.back(rows_R1D[:, 0]), num_lost

    def _exchange_kind(self) -> ExchangeKind:
        refusal = ragged_all_to_all_refusal()
        if self.cfg.exchange is None:
            return "dense" if refusal else "ragged"
        if self.cfg.exchange == "ragged" and refusal:
            raise ValueError(
                f'{self.path()}: exchange="ragged", but {refusal}. Use exchange="dense", or None for the best.'
            )
        return self.cfg.exchange


def _grouped(x_ND: Array, experts_NC: Array, num_experts: int, expert_fn: ExpertFn) -> Array:
    """Returns what the experts make of each token's copies, [N, C, D]; zeros where the expert is `num_experts`."""
    order = sorted_copies(experts_NC, num_experts)
    slots = Slots(order.copy_M, order.place_NC)
    return collect(expert_fn(spread(x_ND, slots), order.sizes_E), slots)
