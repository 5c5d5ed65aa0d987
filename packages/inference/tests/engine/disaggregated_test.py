"""Prompts computed by one engine and continued by another, over a socket, give what one engine gives."""

from __future__ import annotations

import asyncio
import contextlib
import types
from typing import Any

import pytest

from tests.engine.cores import SMALL, parameters, prompts, requests, run, tiny_core, tokens
from trellax.config import finalize, replace_config
from trellax.inference.disaggregation import (
    DisaggregatedEngine,
    EngineRole,
    LocalDecodeWorker,
    LocalPrefillWorker,
    PageReceiver,
    PageSender,
    Prefilled,
    StateLayout,
)
from trellax.inference.engine import Engine, EngineConfig, ModelCard, build_core
from trellax.inference.requests import Output, Request
from trellax.layers.attention import ContiguousCache, SlidingCache

FINGERPRINT = "tiny"
CARD = ModelCard(id="tiny", max_length=64, vocab_size=64)
TOKENIZER: Any = types.SimpleNamespace(eos_ids=frozenset())
TOLERANCES = {"float32": 1e-5, "bfloat16": 3e-2}
"""Of log-probabilities, by the type that is computed in."""
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "paged": ("grouped queries", {}),
    "int8": ("grouped queries", {"cache_dtype": "int8"}),
    "contiguous": ("grouped queries", {"cache": "contiguous"}),
    "ring": ("sliding window", {}),
    "bfloat16": ("grouped queries", {"dtype": "bfloat16"}),
}


def model_of(layout: str) -> tuple[Any, Any, dict[str, Any]]:
    kind, fields = LAYOUTS[layout]
    cfg, params = parameters(kind)
    if layout == "ring":
        cfg = cfg.clone()
        replace_config(cfg, ContiguousCache, SlidingCache.default_config().set(window=4))
    return cfg, params, fields


def role_of(layout: str, *, prefill_only: bool) -> tuple[Engine, EngineRole]:
    model_cfg, params, fields = model_of(layout)
    cfg = finalize(EngineConfig.default_config().set(**SMALL | fields))
    core = build_core(
        cfg,
        model_cfg,
        lambda model, shardings: params,
        prefill_only=prefill_only,
        checks_invariants=True,
    )
    engine = Engine(core, tokenizer=TOKENIZER, model=CARD)
    return engine, EngineRole(engine, StateLayout.of(core))


class _Measured:
    """A prefill role whose hand-overs are as large as was said before, or less."""

    def __init__(self, role: EngineRole):
        self._role = role

    def __getattr__(self, name: str) -> Any:
        return getattr(self._role, name)

    async def prefill(self, request: Request, *, earlier_ids: tuple[int, ...]) -> Prefilled:
        claimed = self._role.handover_bytes(request, earlier_ids=earlier_ids)
        prefilled = await self._role.prefill(request, earlier_ids=earlier_ids)
        if prefilled.handover is not None:
            assert prefilled.handover.num_bytes <= claimed <= 1.5 * prefilled.handover.num_bytes
        return prefilled


async def disaggregated(layout: str, wanted: list[Request]) -> dict[str, list[Output]]:
    """Runs requests on a prefill and a decode engine that a socket connects."""
    prefill, prefill_role = role_of(layout, prefill_only=True)
    decode, decode_role = role_of(layout, prefill_only=False)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(prefill.close)
        stack.callback(decode.close)
        receiver = PageReceiver(fingerprint=FINGERPRINT, capacity_bytes=1 << 22)
        decoding = await stack.enter_async_context(
            LocalDecodeWorker(
                decode_role, receiver, name="d", max_running=4, target=receiver.address
            )
        )
        prefilling = LocalPrefillWorker(
            _Measured(prefill_role),
            name="p",
            max_running=2,
            room_bytes=1 << 22,
            connect_fn=lambda target: PageSender(target, fingerprint=FINGERPRINT),
        )
        stack.push_async_callback(prefilling.close)
        both = DisaggregatedEngine(
            CARD, TOKENIZER, [prefilling], [decoding], check_fn=decode.check, page_size=4
        )
        pieces: dict[str, list[Output]] = {request.id: [] for request in wanted}
        async for output in both.generate(wanted):
            pieces[output.request_id].append(output)
        for engine in (prefill, decode):
            state = engine._core.state
            assert not state.sequences and len(state.free_slots) == 4
            assert state.pages.num_available == state.limits.num_pages - 1
    return pieces


@pytest.mark.parametrize("layout", LAYOUTS)
def test_disaggregated_engines_say_what_one_engine_says(layout: str) -> None:
    model_cfg, params, fields = model_of(layout)
    given = prompts([5, 1, 19, 30])
    wanted = [
        *requests(given[:3], max_tokens=9, logprobs=1),
        Request("drawn", given[3], requests([given[3]], temperature=1.0, seed=4)[0].params),
        Request("one", given[0], requests([given[0]], max_tokens=1)[0].params),
    ]
    fused = run(tiny_core(model_cfg, params=params, **fields), wanted)
    apart = asyncio.run(asyncio.wait_for(disaggregated(layout, wanted), 240))
    assert tokens(apart) == tokens(fused)
    for request in wanted:
        assert apart[request.id][-1].finish_reason == fused[request.id][-1].finish_reason
        ours, theirs = (
            [x.logprob for o in found[request.id] for x in o.logprobs or ()]
            for found in (apart, fused)
        )
        tolerance = TOLERANCES[fields.get("dtype", "float32")]
        assert ours == pytest.approx(theirs, abs=tolerance)
