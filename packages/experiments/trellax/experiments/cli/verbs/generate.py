"""`trellax generate NAME --dir=RUN --prompt=TEXT`, or with --weights=PATH: continues a prompt."""

from __future__ import annotations

from trellax.experiments.cli.arguments import Arguments
from trellax.experiments.cli.sampling import PROMPT
from trellax.experiments.cli.served import opened
from trellax.experiments.cli.streaming import stream
from trellax.experiments.serving import start_core
from trellax.inference.requests import SamplingParams
from trellax.inference.text import PromptBuilder


def run(arguments: Arguments) -> int:
    """Prints the prompt and its continuation, as it comes."""
    flags = arguments.flags
    served, cfg = opened(arguments, max_sequences=1)
    core = start_core(cfg, served)
    prompt = flags.prompt or PROMPT
    builder = PromptBuilder(
        served.tokenizer, vocab_size=served.vocab_size, max_tokens=cfg.max_length - 1
    )
    (ids,) = builder.completion(prompt)
    params = SamplingParams(
        max_tokens=min(flags.tokens, cfg.max_length - len(ids)),
        temperature=flags.temperature,
        top_k=flags.top_k or 0,
        seed=flags.seed or 0,
    )
    print(prompt, end="", flush=True)
    stream(core, ids, params)
    return 0
