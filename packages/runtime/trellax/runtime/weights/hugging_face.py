"""`config.json` of Hugging Face folders, to an `Architecture` and back.

    architecture = architecture_of_json(json.loads((folder / "config.json").read_text()))
    config_json(architecture, max_length=4096)

Every key is either read, or must have the value that we compute with, or is known not to matter; any other is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from trellax.config import did_you_mean
from trellax.layers.attention import LinearRopeScaling, Llama3RopeScaling, RopeScaling
from trellax.layers.weight_names import Family
from trellax.runtime.weights.architecture import Architecture
from trellax.runtime.weights.errors import UnsupportedWeightsError, WeightsFormatError

Json = Mapping[str, Any]
_NEEDED = object()


@dataclasses.dataclass(frozen=True)
class _Field:
    """A key that is read.

    Attributes:
        key: in config.json.
        attribute: of `Architecture`.
        default: what transformers takes where the key is missing.
        alias: another name of the key, in files of some versions.
    """

    key: str
    attribute: str
    default: Any = _NEEDED
    alias: str | None = None


@dataclasses.dataclass(frozen=True)
class _Form:
    """What config.json of a family looks like.

    Attributes:
        model_type: its name there.
        class_name: of transformers' class.
        fields: what is read.
        rope_theta: default of the rotary base.
    """

    model_type: str
    class_name: str
    fields: tuple[_Field, ...]
    rope_theta: float = 10_000.0


def _fields(*, hidden: str, eps: float, kv_heads: Any = _NEEDED) -> tuple[_Field, ...]:
    return (
        _Field("num_hidden_layers", "num_layers"),
        _Field("hidden_size", "dim"),
        _Field("num_attention_heads", "num_heads"),
        _Field("num_key_value_heads", "num_kv_heads", kv_heads),
        _Field(hidden, "hidden_dim"),
        _Field("vocab_size", "vocab_size"),
        _Field("rms_norm_eps", "norm_eps", eps),
        _Field("tie_word_embeddings", "tied", False),
    )


def _expert_fields(num_experts: str) -> tuple[_Field, ...]:
    return (
        _Field(num_experts, "num_experts", alias="num_local_experts"),
        _Field("num_experts_per_tok", "experts_per_token"),
        _Field("router_aux_loss_coef", "load_balance_weight", 0.001),
    )


_FORMS: dict[Family, _Form] = {
    "llama": _Form(
        "llama", "LlamaForCausalLM", _fields(hidden="intermediate_size", eps=1e-6, kv_heads=None)
    ),
    "mixtral": _Form(
        "mixtral",
        "MixtralForCausalLM",
        _fields(hidden="intermediate_size", eps=1e-5) + _expert_fields("num_local_experts"),
        rope_theta=1e6,
    ),
    "qwen3": _Form("qwen3", "Qwen3ForCausalLM", _fields(hidden="intermediate_size", eps=1e-6)),
    "qwen3_moe": _Form(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        _fields(hidden="moe_intermediate_size", eps=1e-6)
        + _expert_fields("num_experts")
        + (_Field("norm_topk_prob", "normalize_weights", False),),
    ),
}

# Keys that must say what we compute; a function gets the value and the whole file.
_FIXED: dict[str, Callable[[Any, Json], bool]] = {
    "hidden_act": lambda value, _: value == "silu",
    "attention_bias": lambda value, _: not value,
    "mlp_bias": lambda value, _: not value,
    "sliding_window": lambda value, file: not _slides(value, file),
    "layer_types": lambda value, _: value is None or set(value) <= {"full_attention"},
    "decoder_sparse_step": lambda value, _: value == 1,
    "mlp_only_layers": lambda value, _: not value,
    "partial_rotary_factor": lambda value, _: value in (None, 1.0),
    "rope_interleaved": lambda value, _: not value,
    "quantization_config": lambda value, _: value is None,
    "is_encoder_decoder": lambda value, _: not value,
    "add_cross_attention": lambda value, _: not value,
    "cross_attention_hidden_size": lambda value, _: value is None,
    "tie_encoder_decoder": lambda value, _: not value,
    "is_decoder": lambda value, _: isinstance(value, bool),
}
# Of training, of generation, of the file itself, of how the library computes.
_IMMATERIAL = frozenset(
    "architectures model_type torch_dtype dtype transformers_version transformers.js_config auto_map name_or_path "
    "use_cache pretraining_tp initializer_range attention_dropout hidden_dropout dropout router_jitter_noise "
    "output_router_logits output_attentions output_hidden_states return_dict use_return_dict torchscript is_llama_config "
    "bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id decoder_start_token_id prefix max_length min_length "
    "max_window_layers use_sliding_window max_position_embeddings head_dim rope_theta rope_scaling rope_parameters "
    "id2label label2id num_labels problem_type finetuning_task task_specific_params tokenizer_class pruned_heads "
    "chunk_size_feed_forward use_bfloat16 tf_legacy_loss do_sample temperature top_k top_p typical_p repetition_penalty "
    "num_beams num_beam_groups diversity_penalty length_penalty early_stopping no_repeat_ngram_size "
    "encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores return_dict_in_generate "
    "forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens "
    "begin_suppress_tokens unsloth_version unsloth_fixed".split()
)


def family_of_json(file: Json) -> Family:
    """Returns the family of a config.json."""
    by_type = {form.model_type: family for family, form in _FORMS.items()}
    model_type = file.get("model_type")
    if model_type not in by_type:
        near = did_you_mean(str(model_type), by_type)
        raise UnsupportedWeightsError(
            f"config.json: model_type is {model_type!r}.{near} Supported: {', '.join(by_type)}."
        )
    return by_type[model_type]


def architecture_of_json(file: Json) -> Architecture:
    """Returns what a config.json describes.

    Raises:
        UnsupportedWeightsError: listing every key whose meaning is not implemented here.
        WeightsFormatError: if a key is missing.
    """
    family = family_of_json(file)
    form = _FORMS[family]
    _refuse_others(file, form)
    values = {field.attribute: _value(file, field) for field in form.fields}
    if values["num_kv_heads"] is None:
        values["num_kv_heads"] = values["num_heads"]
    head_dim = file.get("head_dim") or _default_head_dim(family, values)
    theta, scaling = _rope(file, form)
    return Architecture(
        family=family, head_dim=head_dim, rope_theta=theta, rope_scaling=scaling, **values
    )


def max_length_of_json(file: Json) -> int | None:
    """Returns how many tokens the model was made for."""
    return file.get("max_position_embeddings")


def config_json(
    architecture: Architecture, *, max_length: int, dtype: str = "float32"
) -> dict[str, Any]:
    """Returns the contents of config.json.

    Args:
        architecture: of the model.
        max_length: tokens that it was made for.
        dtype: that its weights are stored in.
    """
    form = _FORMS[architecture.family]
    file: dict[str, Any] = {"architectures": [form.class_name], "model_type": form.model_type}
    file |= {field.key: getattr(architecture, field.attribute) for field in form.fields}
    file |= {
        "head_dim": architecture.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "max_position_embeddings": max_length,
        "rope_theta": architecture.rope_theta,
        "rope_scaling": _scaling_json(architecture.rope_scaling),
        "torch_dtype": dtype,
    }
    if architecture.family == "llama":
        file |= {"mlp_bias": False}
    if architecture.family == "mixtral":
        file |= {"sliding_window": None}
    if (
        architecture.family == "qwen3_moe"
    ):  # It has no dense layers, but transformers wants their width.
        width = architecture.hidden_dim * architecture.experts_per_token
        file |= {"intermediate_size": width, "decoder_sparse_step": 1, "mlp_only_layers": []}
    return file


# ---- keys ------------------------------------------------------------------------------------------


def _refuse_others(file: Json, form: _Form) -> None:
    read = {name for field in form.fields for name in (field.key, field.alias)}
    if form.model_type == "qwen3_moe":
        read.add("intermediate_size")
    problems = []
    for key, value in file.items():
        if key in _FIXED:
            if not _FIXED[key](value, file):
                problems.append(f"{key} = {value!r} is not implemented")
        elif key not in read and key not in _IMMATERIAL and not key.startswith("_"):
            problems.append(f"{key} = {value!r} is not known here")
    if problems:
        raise UnsupportedWeightsError(
            f"config.json of a {form.model_type} asks for what is not there:\n  "
            + "\n  ".join(problems)
        )


def _value(file: Json, field: _Field) -> Any:
    value = file.get(field.key)
    if value is None and field.alias is not None:
        value = file.get(field.alias)
    if value is None and field.default is _NEEDED:
        raise WeightsFormatError(f"config.json has no {field.key}.")
    return field.default if value is None else value


def _default_head_dim(family: Family, values: Mapping[str, Any]) -> int:
    if family.startswith("qwen3"):
        return 128
    return values["dim"] // values["num_heads"]


def _slides(window: Any, file: Json) -> bool:
    """Whether a sliding window hides any token that the model may see."""
    if window is None or file.get("use_sliding_window") is False:
        return False
    longest = file.get("max_position_embeddings")
    return longest is None or window < longest


# ---- rotary positions ------------------------------------------------------------------------------


def _rope(file: Json, form: _Form) -> tuple[float, RopeScaling.Config | None]:
    """Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""
    parameters = dict(file.get("rope_parameters") or file.get("rope_scaling") or {})
    theta = parameters.pop("rope_theta", None) or file.get("rope_theta") or form.rope_theta
    kind = parameters.pop("rope_type", parameters.pop("type", "default"))
    parameters.pop("type", None)
    if parameters.get("partial_rotary_factor") in (None, 1.0):
        parameters.pop("partial_rotary_factor", None)
    if kind not in _SCALINGS:
        raise UnsupportedWeightsError(
            f"config.json: rope_type {kind!r} is not implemented; there are {', '.join(_SCALINGS)}."
        )
    cls, names = _SCALINGS[kind]
    odd = sorted(parameters.keys() ^ names.keys())
    if odd:
        raise UnsupportedWeightsError(
            f"config.json: rope_type {kind!r} with or without {', '.join(odd)} is not implemented."
        )
    if cls is None:
        return float(theta), None
    fields = {ours: parameters[theirs] for theirs, ours in names.items()}
    return float(theta), cls.default_config().set(**_of_types(fields))


def _scaling_json(scaling: RopeScaling.Config | None) -> dict[str, Any] | None:
    for kind, (cls, names) in _SCALINGS.items():
        if cls is not None and isinstance(scaling, cls.Config):
            return {"rope_type": kind} | {
                theirs: getattr(scaling, ours) for theirs, ours in names.items()
            }
    assert scaling is None, scaling
    return None


def _of_types(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {k: int(v) if k == "original_length" else float(v) for k, v in fields.items()}


_SCALINGS: dict[str, tuple[Any, dict[str, str]]] = {
    "default": (None, {}),
    "linear": (LinearRopeScaling, {"factor": "factor"}),
    "llama3": (
        Llama3RopeScaling,
        {
            "factor": "factor",
            "low_freq_factor": "low_frequency_factor",
            "high_freq_factor": "high_frequency_factor",
            "original_max_position_embeddings": "original_length",
        },
    ),
}
