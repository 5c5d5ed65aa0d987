"""Trains a tokenizer as one process of several would: `training_process.py JSON_LIST_OF_TEXTS`.

Prints the tokenizer's fingerprint. The cache folder comes from the environment.
"""

from __future__ import annotations

import json
import sys

from trellax.runtime.input import BpeTokenizer, InMemoryDocuments

documents = InMemoryDocuments.default_config().set(texts=json.loads(sys.argv[1]))
tokenizer = BpeTokenizer.default_config().set(documents=documents, vocab_size=300).instantiate()
print(tokenizer.fingerprint())
