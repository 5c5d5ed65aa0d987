"""Weights of published models, in and out: Hugging Face folders and GGUF files.

    pretrained = open_pretrained("SmolLM2-135M-Instruct.Q4_1.gguf")
    model = pretrained.model_config().instantiate()
    params = pretrained.read(model, dtype="bfloat16")
    write_weights("copy", params, model_config=pretrained.model_config(), max_length=8192)

No torch, no transformers: files are read tensor by tensor, straight to where each belongs.
"""

from trellax.runtime.weights.architecture import Architecture
from trellax.runtime.weights.errors import (
    UnsupportedWeightsError,
    WeightsError,
    WeightsFormatError,
    WeightsMismatchError,
)
from trellax.runtime.weights.generation import GenerationDefaults
from trellax.runtime.weights.gguf_file import GgufFile
from trellax.runtime.weights.hugging_face import architecture_of_json, config_json
from trellax.runtime.weights.pretrained import (
    Pretrained,
    check_same_architecture,
    model_config,
    open_pretrained,
)
from trellax.runtime.weights.reading import read_weights
from trellax.runtime.weights.safetensors_files import SafetensorsFolder
from trellax.runtime.weights.source import TensorInfo, WeightSource
from trellax.runtime.weights.writing import write_weights

__all__ = [
    "Architecture",
    "GenerationDefaults",
    "GgufFile",
    "Pretrained",
    "SafetensorsFolder",
    "TensorInfo",
    "UnsupportedWeightsError",
    "WeightSource",
    "WeightsError",
    "WeightsFormatError",
    "WeightsMismatchError",
    "architecture_of_json",
    "check_same_architecture",
    "config_json",
    "model_config",
    "open_pretrained",
    "read_weights",
    "write_weights",
]
