"""Text to tokens and back: prompts, chat templates, incremental detokenization, stop texts."""

from trellax.inference.text.chat import ChatTemplate
from trellax.inference.text.detokenizer import Detokenizer
from trellax.inference.text.prompts import PromptBuilder
from trellax.inference.text.stopping import StopWatcher
from trellax.inference.text.stream import TextPiece, TextStream
from trellax.inference.text.tokenizer import Tokenizer

__all__ = [
    "ChatTemplate",
    "Detokenizer",
    "PromptBuilder",
    "StopWatcher",
    "TextPiece",
    "TextStream",
    "Tokenizer",
]
