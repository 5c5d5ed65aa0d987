"""Small models of each family, their parameters, and files made by other means than ours.

architecture = tiny("mixtral")
hf_folder(tmp_path, architecture, their_tensors(architecture))
gguf_file(path, metadata, tensors)
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from trellax.layers.weight_names import Family, weight_map
from trellax.runtime.weights import Architecture, config_json

MAX_LENGTH = 128


def tiny(family: Family, **changes: Any) -> Architecture:
    """Returns a small architecture, untied, whose dims all differ."""
    has_experts = family in ("mixtral", "qwen3_moe")
    experts: dict[str, Any] = {"num_experts": 4, "experts_per_token": 2} if has_experts else {}
    architecture = Architecture(
        family=family,
        num_layers=3,
        dim=24,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        hidden_dim=40,
        vocab_size=50,
        norm_eps=1e-6,
        rope_theta=1e4,
        **experts,
    )
    return dataclasses.replace(architecture, **changes)


def model_of(architecture: Architecture) -> Any:
    return architecture.model_config().instantiate(name="root")


def their_tensors(
    architecture: Architecture, *, form: Any = "hugging_face", dtype: Any = np.float32
) -> dict[str, np.ndarray]:
    """Returns random tensors under their names."""
    rng = np.random.default_rng(0)
    bound = weight_map(architecture.family, form=form).bind(
        model_of(architecture).all_parameter_specs()
    )
    return {t.name: rng.standard_normal(t.shape).astype(np.float32).astype(dtype) for t in bound}


def our_parameters(architecture: Architecture, dtype: Any = np.float32) -> Any:
    """Returns random parameters."""
    specs = model_of(architecture).all_parameter_specs()
    rng = np.random.default_rng(1)
    draw = lambda spec: rng.standard_normal(spec.shape).astype(np.float32).astype(dtype)
    return jax.tree.map(draw, specs, is_leaf=lambda x: hasattr(x, "logical_axes"))


def hf_folder(
    folder: Path,
    architecture: Architecture,
    tensors: Mapping[str, np.ndarray],
    *,
    num_files: int = 1,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a folder as transformers would, with the safetensors library."""
    folder.mkdir(exist_ok=True)
    file = config_json(architecture, max_length=MAX_LENGTH) | dict(config or {})
    (folder / "config.json").write_text(json.dumps(file))
    if num_files == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    where: dict[str, str] = {}
    for i in range(num_files):
        name = f"model-{i + 1:05}-of-{num_files:05}.safetensors"
        part = {n: tensors[n] for n in list(tensors)[i::num_files]}
        save_file(part, folder / name, metadata={"format": "pt"})
        where |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


# ---- GGUF ----------------------------------------------------------------------------------------------

TYPE_NUMBERS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q5_0": 6, "BF16": 30}


@dataclasses.dataclass(frozen=True)
class RawTensor:
    """A tensor in the bytes of a GGUF type."""

    shape: tuple[int, ...]
    kind: str
    data: bytes


def raw(x: np.ndarray, kind: str = "F32") -> RawTensor:
    """Returns an array in a floating-point type."""
    dtype = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}[kind]
    return RawTensor(x.shape, kind, x.astype(dtype).tobytes())


def gguf_file(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, RawTensor]) -> Path:
    """Writes a GGUF file, version 3."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        out += _string(key) + _value(value)
    data = b""
    for name, tensor in tensors.items():
        dims = tuple(reversed(tensor.shape))
        out += _string(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        out += struct.pack("<IQ", TYPE_NUMBERS[tensor.kind], len(data))
        data += tensor.data + b"\0" * (-len(tensor.data) % 32)
    path.write_bytes(out + b"\0" * (-len(out) % 32) + data)
    return path


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: Any) -> bytes:
    if isinstance(value, list):
        kind = _value(value[0])[:4] if value else struct.pack("<I", 8)
        return (
            struct.pack("<I", 9)
            + kind
            + struct.pack("<Q", len(value))
            + b"".join(_value(v)[4:] for v in value)
        )
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<Ii", 5, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    return struct.pack("<I", 8) + _string(value)


def gguf_metadata(architecture: Architecture) -> dict[str, Any]:
    """Returns what a file says of a model."""
    name = {"qwen3": "qwen3", "qwen3_moe": "qwen3moe"}.get(architecture.family, "llama")
    fields: dict[str, Any] = {
        "block_count": architecture.num_layers,
        "context_length": MAX_LENGTH,
        "embedding_length": architecture.dim,
        "feed_forward_length": architecture.hidden_dim,
        "attention.head_count": architecture.num_heads,
        "attention.head_count_kv": architecture.num_kv_heads,
        "attention.key_length": architecture.head_dim,
        "attention.value_length": architecture.head_dim,
        "attention.layer_norm_rms_epsilon": architecture.norm_eps,
        "rope.freq_base": architecture.rope_theta,
    }
    if architecture.num_experts:
        fields |= {
            "expert_count": architecture.num_experts,
            "expert_used_count": architecture.experts_per_token,
        }
    if architecture.family == "qwen3_moe":
        fields |= {
            "expert_feed_forward_length": architecture.hidden_dim,
            "feed_forward_length": 999,
        }
    return {"general.architecture": name} | {f"{name}.{k}": v for k, v in fields.items()}
