"""Conversations whose lengths are distributed as ShareGPT's, of text in the public domain, for `vllm bench serve`.

    PYTHON conversations.py TOKENIZER_JSON TEXT_FOLDER OUTPUT [--num 2000] [--seed 0]

PYTHON has the package `tokenizers`. OUTPUT has ShareGPT's form, as `--dataset-name sharegpt` reads it:

    [{"id": …, "conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}, …]

Both turns are passages from novels, which start anywhere. The benchmark sends the first, and asks for as many
tokens as the second has. No two prompts begin alike, so a prefix cache gains nothing, as with ShareGPT's first turns.

Lengths are log-normal, prompt and answer independent, which ShareGPT's are not quite:
    - their spread is that of ShareGPT's lengths: mean (standard deviation) of 246 (547) tokens in, 322 (244) out, in
      NanoFlow (arXiv:2408.12757), table 4
    - vLLM's benchmark drops prompts below 4 or above 1024 tokens, answers below 4, and sums above 2048. What it kept of
      ShareGPT_V3_unfiltered_cleaned_split.json, in 1000 requests, was 215,196 tokens in and 197,090 out (reports in
      vllm-project/vllm pull request 15720). The medians below give these means after dropping.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer  # pants: no-infer-dep

PROMPT_MEDIAN, PROMPT_SPREAD = 150.3, 547 / 246
ANSWER_MEDIAN, ANSWER_SPREAD = 157.4, 244 / 322
MIN_LENGTH, MAX_PROMPT, MAX_TOTAL = 4, 1024, 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("texts", type=Path, help="a folder of .txt files")
    parser.add_argument("output", type=Path)
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    passages = Passages(Tokenizer.from_file(str(args.tokenizer)), args.texts)
    conversations = make(passages, args.num, random.Random(args.seed))
    args.output.write_text(json.dumps(conversations, indent=1))


class Passages:
    """Cuts passages of a given number of tokens out of texts."""

    def __init__(self, tokenizer: Tokenizer, folder: Path) -> None:
        self._text = "\n\n".join(path.read_text() for path in sorted(folder.glob("*.txt")))
        # A passage that begins within a word may have a token more or less by itself than within the text.
        offsets = tokenizer.encode(self._text, add_special_tokens=False).offsets
        self._starts = [start for start, _ in offsets]

    def draw(self, num_tokens: int, rng: random.Random) -> str:
        first = rng.randrange(len(self._starts) - num_tokens)
        return self._text[self._starts[first] : self._starts[first + num_tokens]]


def make(passages: Passages, num: int, rng: random.Random) -> list[dict[str, Any]]:
    """Returns conversations that the benchmark keeps."""
    conversations: list[dict[str, Any]] = []
    while len(conversations) < num:
        prompt = log_normal(PROMPT_MEDIAN, PROMPT_SPREAD, rng)
        answer = log_normal(ANSWER_MEDIAN, ANSWER_SPREAD, rng)
        if not kept(prompt, answer):
            continue
        turns = [
            {"from": "human", "value": passages.draw(prompt, rng)},
            {"from": "gpt", "value": passages.draw(answer, rng)},
        ]
        conversations.append({"id": str(len(conversations)), "conversations": turns})
    return conversations


def log_normal(median: float, spread: float, rng: random.Random) -> int:
    """Draws a length; spread is standard deviation over mean, which fixes the variance of the logarithm."""
    return round(rng.lognormvariate(math.log(median), math.sqrt(math.log1p(spread**2))))


def kept(prompt: int, answer: int) -> bool:
    """Whether vLLM's benchmark uses a conversation of these lengths."""
    return (
        MIN_LENGTH <= prompt <= MAX_PROMPT and MIN_LENGTH <= answer and prompt + answer <= MAX_TOTAL
    )


if __name__ == "__main__":
    main()
