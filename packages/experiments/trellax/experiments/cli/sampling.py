"""Text from a model: prompt in, completion out."""

from __future__ import annotations

from typing import Any

import jax

from trellax.inference import Generator, Sampling

PROMPT = "She was"
"""What a rehearsal's sample continues: a beginning that the text which ships along often has."""


def completion(
    model: Any,
    params: Any,
    tokenizer: Any,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None = None,
    seed: int = 0,
) -> str:
    """Returns the text that the model continues `prompt` with."""
    ids = [int(i) for i in tokenizer.encode(prompt)]
    if tokenizer.bos_id is not None and not ids:
        ids = [tokenizer.bos_id]
    sampling = Sampling.default_config().set(temperature=temperature, top_k=top_k)
    generator = Generator(model, sampling=sampling)
    new = generator(
        params,
        [ids],
        max_new_tokens=max_new_tokens,
        key=jax.random.key(seed),
        eos_id=tokenizer.eos_id,
    )
    return str(tokenizer.decode(new[0]))
