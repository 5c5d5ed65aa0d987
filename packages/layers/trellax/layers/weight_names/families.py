"""The maps of published families, as Hugging Face folders and as GGUF files name their tensors.

    weight_map("mixtral")              # of a Hugging Face folder
    weight_map("mixtral", form="gguf")

Dims: D model, N heads, K kv heads, H head dim, F feed-forward, E experts, V vocabulary; R half a head dim.
"""

from __future__ import annotations

from typing import Literal

from trellax.layers.weight_names.maps import Entry, WeightMap

Family = Literal["llama", "mixtral", "qwen3", "qwen3_moe"]
Form = Literal["hugging_face", "gguf"]

_LAYER = "decoder.stack.layer"
_ATTENTION = f"{_LAYER}.attention"
_FEED_FORWARD = f"{_LAYER}.feed_forward"

# ---- Hugging Face ----------------------------------------------------------------------------------

_HF_FRAME = (
    Entry("decoder.embedding.weight", "model.embed_tokens.weight", "V D -> V D"),
    Entry(f"{_LAYER}.attention_norm.scale", "model.layers.{l}.input_layernorm.weight", "D -> D"),
    Entry(
        f"{_ATTENTION}.projection.query.weight",
        "model.layers.{l}.self_attn.q_proj.weight",
        "(N H) D -> D N H",
    ),
    Entry(
        f"{_ATTENTION}.projection.key.weight",
        "model.layers.{l}.self_attn.k_proj.weight",
        "(K H) D -> D K H",
    ),
    Entry(
        f"{_ATTENTION}.projection.value.weight",
        "model.layers.{l}.self_attn.v_proj.weight",
        "(K H) D -> D K H",
    ),
    Entry(
        f"{_ATTENTION}.output.weight",
        "model.layers.{l}.self_attn.o_proj.weight",
        "D (N H) -> N H D",
    ),
    Entry(
        f"{_LAYER}.feed_forward_norm.scale",
        "model.layers.{l}.post_attention_layernorm.weight",
        "D -> D",
    ),
    Entry("decoder.output_norm.scale", "model.norm.weight", "D -> D"),
    Entry("decoder.lm_head.weight", "lm_head.weight", "V D -> D V"),
)
_HF_HEAD_NORMS = (
    Entry(f"{_ATTENTION}.query_norm.scale", "model.layers.{l}.self_attn.q_norm.weight", "H -> H"),
    Entry(f"{_ATTENTION}.key_norm.scale", "model.layers.{l}.self_attn.k_norm.weight", "H -> H"),
)
_HF_DENSE = (
    Entry(f"{_FEED_FORWARD}.gate.weight", "model.layers.{l}.mlp.gate_proj.weight", "F D -> D F"),
    Entry(f"{_FEED_FORWARD}.up.weight", "model.layers.{l}.mlp.up_proj.weight", "F D -> D F"),
    Entry(f"{_FEED_FORWARD}.down.weight", "model.layers.{l}.mlp.down_proj.weight", "D F -> F D"),
)


def _hf_experts(block: str, *, gate: str, up: str, down: str) -> tuple[Entry, ...]:
    router, expert = f"model.layers.{{l}}.{block}.gate", f"model.layers.{{l}}.{block}.experts.{{e}}"
    experts = f"{_FEED_FORWARD}.experts"
    return (
        Entry(f"{_FEED_FORWARD}.router.weight", f"{router}.weight", "E D -> D E"),
        Entry(f"{experts}.gate", f"{expert}.{gate}.weight", "F D -> D F"),
        Entry(f"{experts}.up", f"{expert}.{up}.weight", "F D -> D F"),
        Entry(f"{experts}.down", f"{expert}.{down}.weight", "D F -> F D"),
    )


_HF_MIXTRAL_EXPERTS = _hf_experts("block_sparse_moe", gate="w1", up="w3", down="w2")
_HF_QWEN_EXPERTS = _hf_experts("mlp", gate="gate_proj", up="up_proj", down="down_proj")
_HF_COPIES = (("lm_head.weight", "model.embed_tokens.weight"),)
_HF_DERIVED = ("model.layers.{l}.self_attn.rotary_emb.inv_freq",)


def _hf(family: Family, *parts: tuple[Entry, ...]) -> WeightMap:
    return WeightMap(family, sum(parts, _HF_FRAME), copies=_HF_COPIES, derived=_HF_DERIVED)


# ---- GGUF ------------------------------------------------------------------------------------------

_GGUF_FRAME = (
    Entry("decoder.embedding.weight", "token_embd.weight", "V D -> V D"),
    Entry(f"{_LAYER}.attention_norm.scale", "blk.{l}.attn_norm.weight", "D -> D"),
    Entry(f"{_ATTENTION}.projection.value.weight", "blk.{l}.attn_v.weight", "(K H) D -> D K H"),
    Entry(f"{_ATTENTION}.output.weight", "blk.{l}.attn_output.weight", "D (N H) -> N H D"),
    Entry(f"{_LAYER}.feed_forward_norm.scale", "blk.{l}.ffn_norm.weight", "D -> D"),
    Entry("decoder.output_norm.scale", "output_norm.weight", "D -> D"),
    Entry("decoder.lm_head.weight", "output.weight", "V D -> D V"),
)
# Files of the architecture "llama" hold pairs of rotated dims as neighbours, we hold them half a head apart.
_GGUF_INTERLEAVED = (
    Entry(
        f"{_ATTENTION}.projection.query.weight", "blk.{l}.attn_q.weight", "(N R 2) D -> D N (2 R)"
    ),
    Entry(f"{_ATTENTION}.projection.key.weight", "blk.{l}.attn_k.weight", "(K R 2) D -> D K (2 R)"),
)
_GGUF_HALVES = (
    Entry(f"{_ATTENTION}.projection.query.weight", "blk.{l}.attn_q.weight", "(N H) D -> D N H"),
    Entry(f"{_ATTENTION}.projection.key.weight", "blk.{l}.attn_k.weight", "(K H) D -> D K H"),
    Entry(f"{_ATTENTION}.query_norm.scale", "blk.{l}.attn_q_norm.weight", "H -> H"),
    Entry(f"{_ATTENTION}.key_norm.scale", "blk.{l}.attn_k_norm.weight", "H -> H"),
)
_GGUF_DENSE = (
    Entry(f"{_FEED_FORWARD}.gate.weight", "blk.{l}.ffn_gate.weight", "F D -> D F"),
    Entry(f"{_FEED_FORWARD}.up.weight", "blk.{l}.ffn_up.weight", "F D -> D F"),
    Entry(f"{_FEED_FORWARD}.down.weight", "blk.{l}.ffn_down.weight", "D F -> F D"),
)
_GGUF_EXPERTS = (
    Entry(f"{_FEED_FORWARD}.router.weight", "blk.{l}.ffn_gate_inp.weight", "E D -> D E"),
    Entry(f"{_FEED_FORWARD}.experts.gate", "blk.{l}.ffn_gate_exps.weight", "E F D -> E D F"),
    Entry(f"{_FEED_FORWARD}.experts.up", "blk.{l}.ffn_up_exps.weight", "E F D -> E D F"),
    Entry(f"{_FEED_FORWARD}.experts.down", "blk.{l}.ffn_down_exps.weight", "E D F -> E F D"),
)
_GGUF_DERIVED = ("rope_freqs.weight",)


def _gguf(family: Family, *parts: tuple[Entry, ...]) -> WeightMap:
    return WeightMap(family, sum(parts, _GGUF_FRAME), derived=_GGUF_DERIVED)


_MAPS: dict[Form, dict[Family, WeightMap]] = {
    "hugging_face": {
        "llama": _hf("llama", _HF_DENSE),
        "mixtral": _hf("mixtral", _HF_MIXTRAL_EXPERTS),
        "qwen3": _hf("qwen3", _HF_HEAD_NORMS, _HF_DENSE),
        "qwen3_moe": _hf("qwen3_moe", _HF_HEAD_NORMS, _HF_QWEN_EXPERTS),
    },
    "gguf": {
        "llama": _gguf("llama", _GGUF_INTERLEAVED, _GGUF_DENSE),
        "mixtral": _gguf("mixtral", _GGUF_INTERLEAVED, _GGUF_EXPERTS),
        "qwen3": _gguf("qwen3", _GGUF_HALVES, _GGUF_DENSE),
        "qwen3_moe": _gguf("qwen3_moe", _GGUF_HALVES, _GGUF_EXPERTS),
    },
}
FAMILIES: tuple[Family, ...] = tuple(_MAPS["hugging_face"])


def weight_map(family: Family, *, form: Form = "hugging_face") -> WeightMap:
    """Returns the map of a family.

    Args:
        family: one of `FAMILIES`. "llama" is Llama 2 and 3, SmolLM2 and others of that architecture.
        form: what kind of file names the tensors.
    """
    maps = _MAPS[form]
    if family not in maps:
        raise ValueError(f"No weight map of the family {family!r}; there are {', '.join(maps)}.")
    return maps[family]
