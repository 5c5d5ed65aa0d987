"""Makes the golden files beside it: small models of each family as `transformers` saves and computes them, and GGUF blocks.

    python3.11 -m venv ENV && ENV/bin/pip install torch==2.13.0 transformers==5.24.0 gguf==0.19.0 safetensors
    ENV/bin/python packages/runtime/tests/weights/goldens/make_goldens.py
    ENV/bin/python …/make_goldens.py --live PYTHON      # makes others, and has PYTHON, with our packages, compare

    FAMILY/config.json, model*.safetensors     what `save_pretrained` wrote; qwen3 in two files with an index
    FAMILY/logits.npz                          input_ids [B, S] and logits [B, S, V], float32
    gguf_blocks.npz                            TYPE_raw, bytes [X, bytes of a block]; TYPE_values, float32 [X, weights of a block]

Weights are random and larger than a fresh model's, and norms differ from one, so that an error in any of them shows in
the logits. Axes: B batch, S query sequence, V vocabulary, X blocks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf  # pants: no-infer-dep
import numpy as np
import torch  # pants: no-infer-dep
import transformers  # pants: no-infer-dep

HERE = Path(__file__).parent
SHAPE = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 56,
    "vocab_size": 128,
    "max_position_embeddings": 64,
}
EXPERTS = {"num_experts_per_tok": 2}
# The original length is shorter than the input, and so the scaling reaches most frequencies of a head.
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": False}),
    "llama_tied": ("Llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "mixtral": ("Mixtral", {**EXPERTS, "num_local_experts": 4, "sliding_window": None}),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": False}),
    "qwen3_moe": (
        "Qwen3Moe",
        {
            **EXPERTS,
            "head_dim": 16,
            "num_experts": 4,
            "moe_intermediate_size": 40,
            "norm_topk_prob": True,
        },
    ),
}
SHARDED = {"qwen3": "80KB"}
BLOCK_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
# Where a block of each quantized type holds its float16 scales, in bytes.
SCALES = {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q4_K": (0, 2), "Q6_K": (208,)}
# What `gguf` wants instead of bytes.
VIEWS = {"F32": np.float32, "F16": np.float16}
NUM_BLOCKS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--live", metavar="PYTHON", help="that can import trellax.runtime")
    parser.add_argument("--seed", type=int, default=1000, help="of the models of --live")
    args = parser.parse_args()
    if args.live:
        sys.exit(compare(args.live, args.seed))
    save_families(HERE)
    np.savez_compressed(HERE / "gguf_blocks.npz", **gguf_blocks(np.random.default_rng(0)))


def compare(python: str, seed: int) -> int:
    """Returns the exit code of a comparison with models that no golden file holds."""
    with tempfile.TemporaryDirectory() as folder:
        save_families(Path(folder), seed)
        folders = [str(Path(folder, name)) for name in FAMILIES]
        command = [python, "-m", "tests.weights.compare", *folders]
        return subprocess.run(command, cwd=HERE.parents[2], check=False).returncode


def save_families(home: Path, seed: int = 0) -> None:
    for name, (class_name, changes) in FAMILIES.items():
        shape, shard_size = {**SHAPE, **changes}, SHARDED.get(name, "1MB")
        save_family(home / name, class_name, shape, shard_size, seed)


def save_family(
    folder: Path, class_name: str, shape: Mapping[str, Any], shard_size: str, seed: int
) -> None:
    """Saves a random model and its logits."""
    config = getattr(transformers, f"{class_name}Config")(**shape)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{class_name}ForCausalLM")(config).eval()
    randomize(model, torch.Generator().manual_seed(seed))
    folder.mkdir(exist_ok=True)
    model.save_pretrained(folder, max_shard_size=shard_size)
    (folder / "generation_config.json").unlink(missing_ok=True)
    ids = torch.randint(
        shape["vocab_size"], (2, 16), generator=torch.Generator().manual_seed(seed + 1)
    )
    with torch.no_grad():
        logits = model(ids).logits
    np.savez_compressed(
        folder / "logits.npz", input_ids=ids.numpy().astype(np.int32), logits=logits.numpy()
    )
    check_saved(folder, ids, logits)


def randomize(model: Any, generator: torch.Generator) -> None:
    """Gives every matrix outputs of about the size of its inputs, and every norm weights about one."""
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(
                1 + 0.2 * noise if parameter.ndim == 1 else noise * parameter.shape[-1] ** -0.5
            )


def check_saved(folder: Path, ids: torch.Tensor, logits: torch.Tensor) -> None:
    """Reads the folder back, which must give the same logits."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, logits, rtol=0, atol=1e-5)
    names = sorted(path.name for path in folder.iterdir())
    print(folder.name, f"std {logits.std():.2f}", json.dumps(names))


def gguf_blocks(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns raw blocks of each type, and what the `gguf` package reads from them."""
    arrays = {}
    for name in BLOCK_TYPES:
        kind = gguf.GGMLQuantizationType[name]
        raw = raw_blocks(name, gguf.GGML_QUANT_SIZES[kind][1], rng)
        arrays[f"{name}_raw"] = raw
        values = gguf.dequantize(raw.view(VIEWS.get(name, np.uint8)), kind).astype(np.float32)
        assert np.isfinite(values).all()
        arrays[f"{name}_values"] = values.reshape(NUM_BLOCKS, -1)
    return arrays


def raw_blocks(name: str, num_bytes: int, rng: np.random.Generator) -> np.ndarray:
    """Returns random bytes [X, num_bytes] that hold finite numbers only."""
    if name not in SCALES:
        return floats(name, rng)
    raw = rng.integers(256, size=(NUM_BLOCKS, num_bytes), dtype=np.uint8)
    for start in SCALES[name]:
        scales = rng.normal(scale=0.05, size=(NUM_BLOCKS, 1)).astype(np.float16)
        raw[:, start : start + 2] = scales.view(np.uint8)
    return raw


def floats(name: str, rng: np.random.Generator) -> np.ndarray:
    """Returns numbers of many sizes: zeros of both signs, and for float16 numbers below its normal ones."""
    values = rng.normal(size=NUM_BLOCKS) * 10.0 ** rng.integers(-7, 4, size=NUM_BLOCKS)
    values[:2] = 0.0, -0.0
    if name == "F16":
        return values.astype(np.float16)[:, None].view(np.uint8)
    raw = values.astype(np.float32)[:, None].view(np.uint8)
    # A bfloat16 is the upper half of a float32, little endian.
    return np.ascontiguousarray(raw[:, 2:]) if name == "BF16" else raw


if __name__ == "__main__":
    main()
