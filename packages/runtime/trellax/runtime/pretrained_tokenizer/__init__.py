"""Tokenizers that published models come with, and those of our runs, as servers need them.

tokenizer = read_tokenizer("SmolLM2-135M-Instruct")   # a Hugging Face folder
tokenizer = gguf_tokenizer(metadata)                  # what a GGUF file says
tokenizer = as_pretrained(run_tokenizer)              # of trellax.runtime.input
tokenizer.encode("<|im_start|>user"), tokenizer.token_bytes(198), tokenizer.chat_template
"""

from trellax.runtime.pretrained_tokenizer.from_gguf import gguf_tokenizer
from trellax.runtime.pretrained_tokenizer.from_run import as_pretrained
from trellax.runtime.pretrained_tokenizer.parts import TokenizerError
from trellax.runtime.pretrained_tokenizer.tokenizer import PretrainedTokenizer, read_tokenizer

__all__ = [
    "PretrainedTokenizer",
    "TokenizerError",
    "as_pretrained",
    "gguf_tokenizer",
    "read_tokenizer",
]
