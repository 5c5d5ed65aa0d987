"""`weights_fingerprint`: whether two processes serve the same weights, without reading all of them.

assert weights_fingerprint("SmolLM2-135M-Instruct") == weights_fingerprint("another/copy/of/it")
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_KINDS = (".gguf", ".json", ".safetensors")
_NUM_SAMPLES = 64
_SAMPLE_BYTES = 1 << 16


def weights_fingerprint(path: str | os.PathLike[str]) -> str:
    """Returns a hash of a GGUF file, or of a Hugging Face folder's or checkpoint's own files (not those in folders below).

    Small files are read whole, which covers configs, tokenizers and the checksums of checkpoints. Of larger ones the size
    and samples count that are spread over the file: training changes all weights, so other weights are found out.
    """
    path = Path(path).expanduser()
    digest = hashlib.sha256()
    if path.is_file():
        _add(digest, path)
    else:
        for file in sorted(f for f in path.iterdir() if f.suffix in _KINDS):
            digest.update(file.name.encode() + b"\0")
            _add(digest, file)
    return digest.hexdigest()[:16]


def _add(digest: hashlib._Hash, file: Path) -> None:
    size = file.stat().st_size
    digest.update(size.to_bytes(8, "big"))
    with file.open("rb") as opened:
        if size <= _NUM_SAMPLES * _SAMPLE_BYTES:
            digest.update(opened.read())
            return
        for i in range(_NUM_SAMPLES):
            opened.seek((size - _SAMPLE_BYTES) * i // (_NUM_SAMPLES - 1))
            digest.update(opened.read(_SAMPLE_BYTES))
