"""`EngineRole`: an engine as the workers of both roles need it.

    role = EngineRole(engine, StateLayout.of(core))
    worker = LocalPrefillWorker(role, name="prefill-0", max_running=8, room_bytes=4 << 30, connect_fn=connect)

Arrays of a sequence travel by their place in the engine's tree of states; that both ends have the same tree is what the
transport's fingerprint is for, see `StateLayout`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import jax

from trellax.inference.disaggregation.errors import NoRoomError, WorkerError
from trellax.inference.disaggregation.handover import HandOver
from trellax.inference.disaggregation.layout import StateLayout
from trellax.inference.disaggregation.workers import Gauges, Prefilled
from trellax.inference.engine import Engine, HandedOver
from trellax.inference.requests import Output, Request


class EngineRole:
    """A `PrefillEngine` if the engine's config was built with `prefill_only`, else a `DecodeEngine`."""

    def __init__(self, engine: Engine, layout: StateLayout):
        """
        Args:
            engine: computes.
            layout: of its core.
        """
        self._engine, self._layout = engine, layout
        self._structure = engine.state_structure()

    async def prefill(self, request: Request, *, earlier_ids: tuple[int, ...]) -> Prefilled:
        """As `PrefillEngine.prefill`."""
        self._check_alive()
        output, handed = await self._engine.prefill(request, earlier_ids=earlier_ids)
        self._check_alive()
        if handed is None:
            return Prefilled(output, None)
        leaves = jax.tree.leaves(handed.arrays)
        arrays = {f"{index:05}": leaf for index, leaf in enumerate(leaves)}
        return Prefilled(output, HandOver(request, handed.token_ids, arrays))

    def handover_bytes(self, request: Request, *, earlier_ids: tuple[int, ...]) -> int:
        """As `PrefillEngine.handover_bytes`."""
        return self._layout.handover_bytes(request, earlier_ids)

    def release(self, request_id: str) -> None:
        """The arrays are copies: their pages were free when they were made."""

    async def resume(self, handover: HandOver) -> AsyncGenerator[Output, None]:
        """As `DecodeEngine.resume`."""
        self._check_alive()
        self._engine.check(handover.request)  # One that never fits would wait for ever.
        leaves: list[Any] = [handover.arrays[name] for name in sorted(handover.arrays)]
        arrays = jax.tree.unflatten(self._structure, leaves)
        handed = HandedOver(handover.token_ids, arrays)
        pieces = await self._engine.resume(handover.request, handed)
        if pieces is None:
            raise NoRoomError("The decode engine has no slot or no pages now.")
        return pieces

    def gauges(self) -> Gauges:
        """As of the engine."""
        stats = self._engine.stats()
        return Gauges(
            page_usage=stats.page_usage,
            num_preemptions=stats.num_preemptions,
            num_compiles=stats.num_compiles,
            num_drafted_rows=stats.num_drafted_rows,
            num_drafts=stats.num_drafts,
            num_accepted_drafts=stats.num_accepted_drafts,
        )

    def _check_alive(self) -> None:
        if not self._engine.is_healthy():
            raise WorkerError("The engine has failed.")
