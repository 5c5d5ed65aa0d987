"""Parameters of a model into a Hugging Face folder: `write_weights`.

    write_weights("out/llama", params, model_config=cfg.model, max_length=4096, dtype="bfloat16")

The folder appears when it is complete, or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from trellax.layers import CausalLM
from trellax.layers.weight_names import BoundTensor, parameter_leaves, weight_map
from trellax.runtime.pretrained_tokenizer import PretrainedTokenizer
from trellax.runtime.weights.architecture import Architecture
from trellax.runtime.weights.errors import UnsupportedWeightsError
from trellax.runtime.weights.generation import GenerationDefaults
from trellax.runtime.weights.hugging_face import config_json
from trellax.runtime.weights.safetensors_files import DTYPES
from trellax.runtime.weights.safetensors_writing import OutgoingTensor, write_safetensors


def write_weights(
    folder: str | os.PathLike[str],
    params: Any,
    *,
    model_config: CausalLM.Config,
    max_length: int,
    dtype: str | None = None,
    tokenizer: PretrainedTokenizer | None = None,
    generation: GenerationDefaults | None = None,
    max_file_bytes: int = 5_000_000_000,
) -> None:
    """Writes config.json, safetensors and, if given, the tokenizer and generation_config.json.

    Args:
        folder: where; it must not exist, or be empty.
        params: parameters of the model, all of them in this process's reach.
        model_config: of the model.
        max_length: tokens that the model was made for.
        dtype: that weights are stored in; None for that of each parameter.
        tokenizer: of the model.
        generation: end tokens and sampling; None for those of the tokenizer.
        max_file_bytes: weights beyond this go to another file.

    Raises:
        UnsupportedWeightsError: if the model has what such a folder cannot say.
        FileExistsError: if there is something in the folder.
    """
    architecture = Architecture.of(model_config)
    tensors = _outgoing(params, architecture, dtype)
    stored = {np.dtype(DTYPES[t.dtype]).name for t in tensors}
    config = config_json(
        architecture, max_length=max_length, dtype=min(stored) if len(stored) == 1 else "float32"
    )
    if generation is None and tokenizer is not None:
        generation = GenerationDefaults(eos_ids=tokenizer.eos_ids, bos_id=tokenizer.bos_id)
    with _appearing(Path(folder)) as new:
        if generation is not None:
            config |= {k: v for k, v in generation.to_json().items() if k.endswith("_token_id")}
            _write_json(new / "generation_config.json", generation.to_json())
        _write_json(new / "config.json", config)
        if tokenizer is not None:
            _write_tokenizer(new, tokenizer)
        write_safetensors(new, tensors, max_bytes=max_file_bytes)


def _outgoing(params: Any, architecture: Architecture, dtype: str | None) -> list[OutgoingTensor]:
    leaves = parameter_leaves(params)
    remote = [
        path for path, leaf in leaves.items() if not getattr(leaf, "is_fully_addressable", True)
    ]
    if remote:
        raise ValueError(
            f"This process reaches only a part of {remote[0]} and {len(remote) - 1} other parameters; write from one "
            "process that reads the checkpoint itself."
        )
    bound = weight_map(architecture.family).bind(params)
    return [_outgoing_tensor(tensor, leaves[tensor.path], dtype) for tensor in bound]


def _outgoing_tensor(tensor: BoundTensor, leaf: Any, dtype: str | None) -> OutgoingTensor:
    codes = {np.dtype(stored).name: code for code, stored in DTYPES.items()}
    name = np.dtype(dtype or leaf.dtype).name
    if name not in codes:
        raise UnsupportedWeightsError(
            f"{tensor.path} is to be stored as {name}; supported are {', '.join(codes)}."
        )

    def values() -> np.ndarray:
        ours = np.asarray(jax.device_get(leaf[tensor.index] if tensor.index else leaf))
        return tensor.pattern.to_theirs(ours.astype(name, copy=False))

    return OutgoingTensor(tensor.name, tensor.shape, codes[name], values)


@contextlib.contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """Gives a folder to fill that takes the place of `folder` at the end; after an error nothing is left."""
    folder = folder.expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty; choose another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield new
        mask = os.umask(0)
        os.umask(mask)
        new.chmod(0o777 & ~mask)
        os.replace(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def _write_tokenizer(folder: Path, tokenizer: PretrainedTokenizer) -> None:
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **tokenizer.special_tokens}
    _write_json(folder / "tokenizer_config.json", config | tokenizer.added_around())
    if tokenizer.chat_template is not None:
        (folder / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
