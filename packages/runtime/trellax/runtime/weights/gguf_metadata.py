"""What GGUF metadata says of a model: its `Architecture`.

architecture = architecture_of_gguf(GgufFile(path))
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trellax.layers.attention import LinearRopeScaling, Llama3RopeScaling, RopeScaling
from trellax.layers.weight_names import Family
from trellax.runtime.weights.architecture import Architecture
from trellax.runtime.weights.errors import UnsupportedWeightsError, WeightsFormatError
from trellax.runtime.weights.gguf_file import GgufFile

_READ = frozenset(
    "block_count embedding_length attention.head_count attention.head_count_kv attention.key_length "
    "attention.value_length feed_forward_length expert_feed_forward_length vocab_size context_length expert_count "
    "expert_used_count attention.layer_norm_rms_epsilon rope.freq_base rope.dimension_count rope.scaling.type "
    "rope.scaling.factor rope.scaling.original_context_length rope.scaling.finetuned attention.sliding_window "
    "attention.causal tensor_data_layout".split()
)


def architecture_of_gguf(file: GgufFile) -> Architecture:
    """Returns what a file describes.

    Raises:
        UnsupportedWeightsError: naming the keys whose meaning is not implemented here.
        WeightsFormatError: if a key is missing.
    """
    return _Metadata(file).architecture()


class _Metadata:
    """The keys of one model in a file."""

    def __init__(self, file: GgufFile):
        self._file = file
        self._prefix = file.metadata.get("general.architecture")

    def architecture(self) -> Architecture:
        """Returns the architecture."""
        family = self._family()
        num_heads = self.of("attention.head_count")
        dim = self.of("embedding_length")
        head_dim = self.of("attention.key_length", dim // num_heads)
        self._refuse_others(head_dim)
        experts: dict[str, Any] = {}
        hidden = "feed_forward_length"
        if family in ("mixtral", "qwen3_moe"):
            experts = {
                "num_experts": self.of("expert_count"),
                "experts_per_token": self.of("expert_used_count"),
            }
            if family == "qwen3_moe":
                hidden = "expert_feed_forward_length"
        return Architecture(
            family=family,
            num_layers=self.of("block_count"),
            dim=dim,
            num_heads=num_heads,
            num_kv_heads=self.of("attention.head_count_kv", num_heads),
            head_dim=head_dim,
            hidden_dim=self.of(hidden),
            vocab_size=self._tensor_shape("token_embd.weight")[0],
            norm_eps=self.of("attention.layer_norm_rms_epsilon"),
            rope_theta=self.of("rope.freq_base", 10_000.0),
            rope_scaling=self._rope_scaling(head_dim),
            tied="output.weight" not in self._file.tensors,
            **experts,
        )

    def of(self, key: str, default: Any = None) -> Any:
        """Returns a value of the model."""
        value = self._file.metadata.get(f"{self._prefix}.{key}", default)
        if value is None:
            raise WeightsFormatError(f"{self._file.path}: no metadata {self._prefix}.{key}.")
        return value

    def _family(self) -> Family:
        families: dict[Any, Family] = {
            "llama": "mixtral" if self._file.metadata.get("llama.expert_count") else "llama",
            "qwen3": "qwen3",
            "qwen3moe": "qwen3_moe",
        }
        if self._prefix not in families:
            raise UnsupportedWeightsError(
                f"{self._file.path}: general.architecture is {self._prefix!r}; supported: {', '.join(families)}."
            )
        return families[self._prefix]

    def _refuse_others(self, head_dim: int) -> None:
        begin = f"{self._prefix}."
        keys = [k.removeprefix(begin) for k in self._file.metadata if k.startswith(begin)]
        problems = [
            f"{key} = {self.of(key)!r} is not known here" for key in sorted(set(keys) - _READ)
        ]
        must = {
            "attention.value_length": head_dim,
            "rope.dimension_count": head_dim,
            "attention.causal": True,
            "tensor_data_layout": "Meta AI original pth",
        }
        problems += [
            f"{key} = {self.of(key)!r} is not implemented"
            for key, value in must.items()
            if self.of(key, value) != value
        ]
        if self.of("attention.sliding_window", math.inf) < self.of("context_length"):
            problems.append(
                f"attention.sliding_window = {self.of('attention.sliding_window')!r} is not implemented"
            )
        if problems:
            raise UnsupportedWeightsError(
                f"{self._file.path} asks for what is not there:\n  " + "\n  ".join(problems)
            )

    def _rope_scaling(self, head_dim: int) -> RopeScaling.Config | None:
        kind = self.of("rope.scaling.type", "none")
        if "rope_freqs.weight" in self._file.tensors:
            return self._llama3_scaling(head_dim)
        if kind == "linear":
            factor = float(self.of("rope.scaling.factor"))
            return LinearRopeScaling.default_config().set(factor=factor)
        if kind != "none":
            raise UnsupportedWeightsError(
                f"{self._file.path}: rope.scaling.type {kind!r} is not implemented; there are none, linear."
            )
        return None

    def _llama3_scaling(self, head_dim: int) -> RopeScaling.Config:
        """Returns the scaling whose effect on each frequency the file holds as a tensor."""
        with self._file.tensor("rope_freqs.weight") as divisors:
            factor = float(divisors.max())
            scaling = Llama3RopeScaling.default_config().set(factor=factor)
            powers = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
            frequencies = self.of("rope.freq_base", 10_000.0) ** -powers
            expected = frequencies / scaling.instantiate().frequencies(frequencies)
            if not np.allclose(divisors, expected, rtol=1e-4):
                raise UnsupportedWeightsError(
                    f"{self._file.path}: rope_freqs.weight is not the scaling of Llama 3.1, which alone is implemented."
                )
        return scaling

    def _tensor_shape(self, name: str) -> tuple[int, ...]:
        if name not in self._file.tensors:
            raise WeightsFormatError(f"{self._file.path}: no tensor {name}.")
        return self._file.tensors[name].shape
