"""What a model's authors say of generating with it.

GenerationDefaults.of_folder(folder).sampling  # {"temperature": 0.6, "top_p": 0.95}
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@dataclasses.dataclass(frozen=True)
class GenerationDefaults:
    """Values of generation_config.json, or of a GGUF file.

    Attributes:
        eos_ids: ids that end a text.
        bos_id: id that begins one, or None.
        pad_id: id of padding, or None.
        sampling: {"temperature", "top_k", "top_p", "min_p", "repetition_penalty"}, as far as they are given.
    """

    eos_ids: frozenset[int] = frozenset()
    bos_id: int | None = None
    pad_id: int | None = None
    sampling: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_json(
        cls, generation: Mapping[str, Any], config: Mapping[str, Any]
    ) -> GenerationDefaults:
        """Reads generation_config.json; ids that it lacks are those of config.json."""
        ids = {
            key: generation.get(key, config.get(key))
            for key in ("eos_token_id", "bos_token_id", "pad_token_id")
        }
        eos = ids["eos_token_id"]
        draws = generation.get("do_sample", True)  # If not, the rest is said of nothing.
        return cls(
            eos_ids=frozenset(() if eos is None else eos if isinstance(eos, list) else [eos]),
            bos_id=ids["bos_token_id"],
            pad_id=ids["pad_token_id"],
            sampling={
                k: generation[k] for k in _SAMPLING if draws and generation.get(k) is not None
            },
        )

    @classmethod
    def of_folder(cls, folder: Path) -> GenerationDefaults:
        """Reads a Hugging Face folder."""
        file = folder / "generation_config.json"
        generation = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return cls.of_json(generation, json.loads((folder / "config.json").read_text("utf-8")))

    @classmethod
    def of_gguf(cls, metadata: Mapping[str, Any]) -> GenerationDefaults:
        """Reads what a GGUF file says of its tokens."""
        get = lambda name: metadata.get(f"tokenizer.ggml.{name}_token_id")
        ends = [get(name) for name in ("eos", "eot", "eom")]
        eos_ids = frozenset(end for end in ends if end is not None)
        return cls(eos_ids=eos_ids, bos_id=get("bos"), pad_id=get("padding"))

    def to_json(self) -> dict[str, Any]:
        """Returns the contents of generation_config.json."""
        eos = sorted(self.eos_ids)
        ids = {"bos_token_id": self.bos_id, "pad_token_id": self.pad_id}
        ids |= {"eos_token_id": eos[0] if len(eos) == 1 else eos or None}  # type: ignore[dict-item]
        sampling = {"do_sample": True, **self.sampling} if self.sampling else {}
        return {key: value for key, value in ids.items() if value is not None} | sampling
