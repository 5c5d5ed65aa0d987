"""Trains a tokenizer as one process of several would: `training_process.py JSON_LIST_OF_TEXTS`.

Prints the tokenizer's fingerprint. The cache folder comes from the environment.
"""

from __future__ import annotations

import json
import sys

from trellax.runtime.input import BpeTokenizer, InMemoryDocuments


def main(texts: list[str]) -> None:
    """Trains on `texts` and prints."""
    documents = InMemoryDocuments.default_config().set(texts=texts)
    cfg = BpeTokenizer.default_config().set(documents=documents, vocab_size=300)
    print(cfg.instantiate().fingerprint())


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
