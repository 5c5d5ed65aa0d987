"""Model families x mesh rules x runtime, as experiments that run.

from trellax.experiments import get_experiment
trainer_cfg = get_experiment("llama2_7b_tpu")
"""

from trellax.experiments.registry import (
    UnknownExperimentError,
    experiment_names,
    get_experiment,
)

__all__ = ["UnknownExperimentError", "experiment_names", "get_experiment"]
