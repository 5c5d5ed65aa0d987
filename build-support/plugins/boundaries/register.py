"""Makes `./pants lint` check the rules of visibility, and report all violations rather than the first.

Pants checks them when it resolves a target's dependencies, which its linters by themselves never ask for.
"""

from dataclasses import dataclass

from pants.backend.python.target_types import PythonSourceField
from pants.core.goals.lint import LintResult, LintTargetsRequest
from pants.core.util_rules.partitions import PartitionerType
from pants.engine.addresses import Addresses
from pants.engine.internals.dep_rules import DependencyRuleActionDeniedError
from pants.engine.rules import Get, collect_rules, rule
from pants.engine.target import Dependencies, DependenciesRequest, FieldSet
from pants.option.option_types import SkipOption
from pants.option.subsystem import Subsystem


class Boundaries(Subsystem):
    options_scope = "boundaries"
    name = "boundaries"
    help = "Checks the edges between packages, families and third parties."

    skip = SkipOption("lint")


@dataclass(frozen=True)
class BoundariesFieldSet(FieldSet):
    required_fields = (PythonSourceField, Dependencies)

    dependencies: Dependencies


class BoundariesRequest(LintTargetsRequest):
    field_set_type = BoundariesFieldSet
    tool_subsystem = Boundaries
    partitioner_type = PartitionerType.DEFAULT_SINGLE_PARTITION


@rule
async def check_boundaries(request: BoundariesRequest.Batch) -> LintResult:
    violations = []
    for field_set in request.elements:
        try:
            await Get(Addresses, DependenciesRequest(field_set.dependencies))
        except DependencyRuleActionDeniedError as error:
            violations.append(str(error))
    return LintResult(
        exit_code=1 if violations else 0,
        stdout="",
        stderr="\n\n".join(violations),
        linter_name=Boundaries.name,
    )


def rules():
    return [*collect_rules(), *BoundariesRequest.rules()]
