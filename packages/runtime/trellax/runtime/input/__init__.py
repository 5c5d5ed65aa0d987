"""Documents → tokens → packed rows → batches: what a trainer and its evaluators read.

    from trellax.runtime.input import BpeTokenizer, DocumentSequences, Input, TextFiles

    text = TextFiles.default_config().set(paths=["books/"])
    cfg = Input.default_config().set(
        tokenizer=BpeTokenizer.default_config().set(documents=text, vocab_size=4096),
        dataset=DocumentSequences.default_config().set(documents=text),
        sequence_length=512,
        global_batch_size=16,
    )
    cfg.instantiate().batch(0)["input_ids"]  # int32 [16, 512]

Libraries that read data (grain, tokenizers, pyarrow, array_record) load when data is read.
"""

from trellax.runtime.input.array_record import ArrayRecordDocuments
from trellax.runtime.input.bpe import BpeTokenizer, FileTokenizer
from trellax.runtime.input.documents import DocumentRange, DocumentSource, InMemoryDocuments
from trellax.runtime.input.errors import InputError
from trellax.runtime.input.input import Batch, Input
from trellax.runtime.input.jsonl import JsonlDocuments
from trellax.runtime.input.mixture import MixtureSequences
from trellax.runtime.input.parquet import ParquetDocuments
from trellax.runtime.input.sequences import DocumentSequences, Row, SequenceDataset
from trellax.runtime.input.splitting import (
    AtHeadings,
    AtSeparators,
    ParagraphGroups,
    Splitter,
    WholeText,
)
from trellax.runtime.input.text_files import PackageText, TextFiles
from trellax.runtime.input.token_store import TokenStore
from trellax.runtime.input.tokenizer import ByteTokenizer, Tokenizer
from trellax.runtime.input.user_text import documents_from, use_text

__all__ = [
    "ArrayRecordDocuments",
    "AtHeadings",
    "AtSeparators",
    "Batch",
    "BpeTokenizer",
    "ByteTokenizer",
    "DocumentRange",
    "DocumentSequences",
    "DocumentSource",
    "FileTokenizer",
    "InMemoryDocuments",
    "Input",
    "InputError",
    "JsonlDocuments",
    "MixtureSequences",
    "PackageText",
    "ParagraphGroups",
    "ParquetDocuments",
    "Row",
    "SequenceDataset",
    "Splitter",
    "TextFiles",
    "TokenStore",
    "Tokenizer",
    "WholeText",
    "documents_from",
    "use_text",
]
