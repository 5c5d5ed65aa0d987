"""`open_pretrained`: a published model, from a Hugging Face folder or a GGUF file.

pretrained = open_pretrained("SmolLM2-135M-Instruct.Q4_1.gguf")
model = pretrained.model_config().instantiate()
params = pretrained.read(model, dtype="bfloat16")
tokenizer = pretrained.tokenizer()
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trellax.layers import CausalLM
from trellax.layers.weight_names import Family, Form, WeightMap, weight_map
from trellax.runtime.pretrained_tokenizer import (
    PretrainedTokenizer,
    gguf_tokenizer,
    read_tokenizer,
)
from trellax.runtime.weights.architecture import Architecture, unequal_hyperparameters
from trellax.runtime.weights.errors import WeightsFormatError, refuse_if_any
from trellax.runtime.weights.generation import GenerationDefaults
from trellax.runtime.weights.gguf_file import GgufFile
from trellax.runtime.weights.gguf_metadata import architecture_of_gguf
from trellax.runtime.weights.hugging_face import architecture_of_json, max_length_of_json
from trellax.runtime.weights.reading import read_weights
from trellax.runtime.weights.safetensors_files import SafetensorsFolder
from trellax.runtime.weights.source import WeightSource


class Pretrained:
    """A model in files. Nothing of the weights is read before `read`.

    Attributes:
        path: the folder or file.
        architecture: its hyperparameters.
        max_length: tokens that it was made for, or None if the files do not say.
        generation: end tokens, and how its authors sample.
    """

    def __init__(
        self,
        path: Path,
        *,
        form: Form,
        architecture: Architecture,
        max_length: int | None,
        generation: GenerationDefaults,
        open_source: Callable[[], WeightSource],
        make_tokenizer: Callable[[], PretrainedTokenizer],
    ):
        self.path = path
        self.architecture = architecture
        self.max_length = max_length
        self.generation = generation
        self._form = form
        self._open_source = open_source
        self._make_tokenizer = make_tokenizer

    @property
    def family(self) -> Family:
        """Name of the family."""
        return self.architecture.family

    @property
    def weight_map(self) -> WeightMap:
        """Which of its tensors is which parameter."""
        return weight_map(self.family, form=self._form)

    @functools.cached_property
    def source(self) -> WeightSource:
        """Its tensors."""
        return self._open_source()

    def model_config(self) -> CausalLM.Config:
        """Returns a new config of the model."""
        return self.architecture.model_config()

    def read(
        self, model_or_specs: Any, *, dtype: str | None = None, shardings: Any = None
    ) -> dict[str, Any]:
        """Returns the parameters of a model; see `read_weights`."""
        return read_weights(
            self.source,
            model_or_specs,
            weight_map=self.weight_map,
            dtype=dtype,
            shardings=shardings,
        )

    def tokenizer(self) -> PretrainedTokenizer:
        """Returns its tokenizer."""
        return self._make_tokenizer()


def open_pretrained(path: str | os.PathLike[str]) -> Pretrained:
    """Opens a model's files.

    Args:
        path: a Hugging Face folder (config.json, safetensors, tokenizer.json), or a GGUF file.

    Raises:
        UnsupportedWeightsError: if it is of an unknown family, or asks for what is not implemented; by name.
        WeightsFormatError: if files are missing or damaged.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        return _of_gguf(path)
    raise WeightsFormatError(
        f"{path}: no such file or folder; give a Hugging Face folder or a GGUF file."
    )


def model_config(source: str | os.PathLike[str] | Pretrained) -> CausalLM.Config:
    """Returns the config of the model in some files."""
    return _opened(source).model_config()


def check_same_architecture(
    model_cfg: CausalLM.Config, source: str | os.PathLike[str] | Pretrained
) -> None:
    """Checks that a model computes the function that weights were trained for.

    Raises:
        WeightsMismatchError: listing by config path the hyperparameters that differ.
        UnsupportedWeightsError: listing by config path what no weights of these families can have.
    """
    pretrained = _opened(source)
    refuse_if_any(
        unequal_hyperparameters(pretrained.architecture, Architecture.of(model_cfg)),
        f"The weights in {pretrained.path} are of another model than the config",
        "Use the experiment that fits the weights, or set these fields.",
    )


def _opened(source: str | os.PathLike[str] | Pretrained) -> Pretrained:
    return source if isinstance(source, Pretrained) else open_pretrained(source)


def _of_folder(path: Path) -> Pretrained:
    file = path / "config.json"
    if not file.is_file():
        raise WeightsFormatError(
            f"{path} has no config.json; give a Hugging Face folder or a GGUF file."
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e:
        raise WeightsFormatError(f"{file}: not JSON ({e}).") from None
    return Pretrained(
        path,
        form="hugging_face",
        architecture=architecture_of_json(config),
        max_length=max_length_of_json(config),
        generation=GenerationDefaults.of_folder(path),
        open_source=lambda: SafetensorsFolder(path),
        make_tokenizer=lambda: read_tokenizer(path),
    )


def _of_gguf(path: Path) -> Pretrained:
    file = GgufFile(path)
    return Pretrained(
        path,
        form="gguf",
        architecture=architecture_of_gguf(file),
        max_length=file.metadata.get(f"{file.metadata['general.architecture']}.context_length"),
        generation=GenerationDefaults.of_gguf(file.metadata),
        open_source=lambda: file,
        make_tokenizer=lambda: gguf_tokenizer(file.metadata, source=str(path)),
    )
