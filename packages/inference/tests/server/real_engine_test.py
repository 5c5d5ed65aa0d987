"""The `openai` client against a real engine: the checks of `benchmarks/clients`, on a tiny model with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from benchmarks.clients import openai_checks

from tests.engine.cores import tiny_core
from tests.generation.models import built, llama
from tests.server.fakes import TEMPLATE
from tests.server.serving import listening
from tests.text.sample_tokenizers import ascii_tokenizer
from trellax.inference.engine import Engine, ModelCard

MAX_LENGTH = 1152
CHECKS = [value for name, value in vars(openai_checks).items() if name.startswith("the_")]
NEEDS_TRAINING = {openai_checks.the_end_token_ends_a_chat_unless_it_is_ignored}
"""A model with random weights does not end its answers."""


TOKENIZER = ascii_tokenizer(TEMPLATE)


@pytest.fixture(scope="module")
def server() -> Iterator[openai_checks.Server]:
    cfg = llama(num_kv_heads=2)
    cfg.decoder.vocab_size = TOKENIZER.vocab_size
    core = tiny_core(
        cfg,
        params=built(cfg.clone())[1],
        tokenizer=TOKENIZER,
        max_length=MAX_LENGTH,
        max_queued_requests=64,
    )
    card = ModelCard(id="tiny", max_length=MAX_LENGTH, vocab_size=TOKENIZER.vocab_size)
    engine = Engine(core, tokenizer=TOKENIZER, model=card)
    with listening(engine) as listens:
        yield openai_checks.Server(listens.url)
    engine.close()
    assert (
        not core.state.sequences and len(core.state.free_slots) == core.state.limits.max_sequences
    )
    assert core.state.pages.num_available == core.state.limits.num_pages - 1


@pytest.mark.parametrize("check", [c for c in CHECKS if c not in NEEDS_TRAINING])
def test_what_the_client_is_promised_holds(
    check: Callable[[openai_checks.Server], Any], server: openai_checks.Server
) -> None:
    check(server)
