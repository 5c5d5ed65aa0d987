"""Tokenizers of Hugging Face folders: `tokenizer.json`, and what lies beside it.

parts = folder_parts("SmolLM2-135M-Instruct")
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trellax.runtime.pretrained_tokenizer.parts import TokenizerError, TokenizerParts

SPECIAL_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


def folder_parts(folder: str | os.PathLike[str]) -> TokenizerParts:
    """Reads tokenizer.json, tokenizer_config.json, special_tokens_map.json, chat_template.jinja, generation_config.json."""
    folder = Path(folder)
    library = library_from_file(folder)
    config = _json(folder / "tokenizer_config.json")
    special = _spelling(_json(folder / "special_tokens_map.json")) | _spelling(config)
    return TokenizerParts(
        library=library,
        source=str(folder),
        special_tokens=special,
        eos_ids=_eos_ids(folder),
        chat_template=_chat_template(folder, config),
        adds_bos=config.get("add_bos_token"),
        adds_eos=bool(config.get("add_eos_token")),
    )


def library_from_file(folder: Path) -> Any:
    """Returns the `tokenizers.Tokenizer` of a folder's tokenizer.json."""
    import tokenizers  # Imported here, for programs that read no text.

    file = folder / "tokenizer.json"
    if not file.is_file():
        there = [n for n in ("tokenizer.model", "vocab.json") if (folder / n).is_file()]
        hint = (
            f" It has {there[0]}; convert it with transformers' save_pretrained." if there else ""
        )
        raise TokenizerError(f"{folder} has no tokenizer.json.{hint}")
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as e:  # The library raises plain Exception.
        raise TokenizerError(f"{file}: not a tokenizer.json file ({e}).") from None


def _spelling(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns how special tokens are spelt: they are texts, or objects with a `content`."""
    found = {name: config.get(name) for name in SPECIAL_NAMES}
    texts = {k: v.get("content") if isinstance(v, dict) else v for k, v in found.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _eos_ids(folder: Path) -> frozenset[int]:
    """Returns the ids that end a generated text; of the model's config only if generation's has none."""
    for name in ("generation_config.json", "config.json"):
        found = _json(folder / name).get("eos_token_id")
        if found is not None:
            return frozenset(found if isinstance(found, Iterable) else [found])
    return frozenset()


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # Several, by name.
        template = {each["name"]: each["template"] for each in template}.get("default")
    return template


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e:
        raise TokenizerError(f"{file}: not JSON ({e}).") from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{file}: not a JSON object.")
    return content
