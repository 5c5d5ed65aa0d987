"""`trellax chat NAME --weights=PATH`, or `--dir=RUN`: a conversation on the command line."""

from __future__ import annotations

import sys

from trellax.experiments.cli.arguments import Arguments
from trellax.experiments.cli.served import opened
from trellax.experiments.cli.streaming import stream
from trellax.experiments.serving import start_core
from trellax.inference.requests import RequestError, SamplingParams
from trellax.inference.text import PromptBuilder


def run(arguments: Arguments) -> int:
    """Reads lines and answers each, until the end of input or an empty line."""
    flags = arguments.flags
    served, cfg = opened(arguments, max_sequences=1)
    core = start_core(cfg, served)
    prompts = PromptBuilder(
        served.tokenizer, vocab_size=served.vocab_size, max_tokens=cfg.max_length - 1
    )
    messages: list[dict[str, str]] = []
    while (line := _asked()) is not None:
        messages.append({"role": "user", "content": line})
        prompt = prompts.chat(messages)
        params = SamplingParams(
            max_tokens=min(flags.tokens, cfg.max_length - len(prompt)),
            temperature=flags.temperature,
            top_k=flags.top_k or 0,
            seed=flags.seed,
        )
        try:
            answer = stream(core, prompt, params)
        except RequestError as e:
            print(f"trellax: {e}", file=sys.stderr)
            return 2
        messages.append({"role": "assistant", "content": answer})
    return 0


def _asked() -> str | None:
    prompt = "> " if sys.stdin.isatty() else ""
    try:
        line = input(prompt)
    except EOFError:
        return None
    return line.strip() or None
