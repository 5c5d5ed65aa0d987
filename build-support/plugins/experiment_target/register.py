"""The BUILD target `experiment`: `./pants run experiments:NAME -- ARGS` runs the command line bound to experiment NAME.

Pants' own `pex_binary` would pack some 400 MB into an archive before every run. This target starts the program on the
checkout's sources, in the environment that the tests use too; the first run makes that environment, later ones start
in seconds. The process gets `--experiment=NAME` before the user's own arguments and the repository root as its working
directory.
"""

import dataclasses
from dataclasses import dataclass

from pants.backend.python.goals.run_helper import _create_python_source_run_request
from pants.backend.python.target_types import PexEntryPointField
from pants.backend.python.util_rules.pex_environment import PexEnvironment
from pants.core.goals.run import RunFieldSet, RunInSandboxBehavior, RunRequest
from pants.engine.rules import collect_rules, rule
from pants.engine.target import COMMON_TARGET_FIELDS, Dependencies, StringField, Target

COMMAND_LINE = "trellax.experiments.cli:main"


class ExperimentDependencies(Dependencies):
    """The code to run; experiments are looked up by name at run time, so it cannot be inferred."""


class ExperimentEntryPoint(StringField):
    alias = "entry_point"
    default = COMMAND_LINE
    help = "The function that gets `--experiment=NAME` and the user's arguments, as `module:function`."


class Experiment(Target):
    alias = "experiment"
    core_fields = (*COMMON_TARGET_FIELDS, ExperimentDependencies, ExperimentEntryPoint)
    help = "A registered experiment that can be run by its address."


@dataclass(frozen=True)
class ExperimentFieldSet(RunFieldSet):
    required_fields = (ExperimentEntryPoint,)
    run_in_sandbox_behavior = RunInSandboxBehavior.NOT_SUPPORTED

    entry_point: ExperimentEntryPoint


@rule
async def run_experiment(field_set: ExperimentFieldSet, pex_env: PexEnvironment) -> RunRequest:
    request = await _create_python_source_run_request(
        field_set.address,
        entry_point_field=PexEntryPointField(field_set.entry_point.value, field_set.address),
        pex_env=pex_env,
        run_in_sandbox=False,
    )
    bound_args = (*request.args, f"--experiment={field_set.address.target_name}")
    return dataclasses.replace(request, args=bound_args)


def target_types():
    return [Experiment]


def rules():
    return [*collect_rules(), *ExperimentFieldSet.rules()]
