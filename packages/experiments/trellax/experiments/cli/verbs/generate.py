"""`trellax generate NAME --dir=RUN --prompt=TEXT`: continues a prompt with a run's checkpoint."""

from __future__ import annotations

from trellax.experiments.cli.arguments import Arguments
from trellax.experiments.cli.checkpoints import open_run
from trellax.experiments.cli.sampling import PROMPT, completion


def run(arguments: Arguments) -> int:
    """Prints the prompt and its continuation."""
    flags = arguments.flags
    trainer, _, params = open_run(arguments)
    prompt = flags.prompt or PROMPT
    text = completion(
        trainer.model,
        params,
        trainer.input.tokenizer,
        prompt,
        max_new_tokens=flags.tokens,
        temperature=flags.temperature,
        top_k=flags.top_k,
        seed=flags.seed or 0,
    )
    print(prompt + text)
    return 0
