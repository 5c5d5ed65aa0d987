"""The command line: `trellax VERB NAME [--flag=value ...] [path=value ...]`.

Exit codes: 0 done; 1 failed; 2 a mistake on the command line or in the config, nothing written;
3 a plan that does not fit its hardware; 130 and 143 stopped by SIGINT and SIGTERM, after saving.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from trellax.config import ConfigError
from trellax.experiments.cli.arguments import UsageError, parse, usage

EXIT_FAILED = 1
EXIT_USAGE = 2
_RUNS_ON_DEVICES = ("train", "eval", "generate", "chat", "serve", "batch")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with its code."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code."""
    try:
        arguments = parse(argv)
        if arguments.verb == "help":
            print(usage())
            return 0
        if arguments.verb in _RUNS_ON_DEVICES:
            _set_compiler_flags()
        # Each verb is a module of its own, so that `list` and `diff` do not load what training needs.
        verb = importlib.import_module(f"trellax.experiments.cli.verbs.{arguments.verb}")
        return int(verb.run(arguments))
    except (UsageError, ConfigError) as e:
        return _refuse(e)
    except Exception as e:
        from trellax.runtime import NonFiniteError

        if isinstance(e, NonFiniteError):
            return _refuse(e, EXIT_FAILED)
        if _is_users_mistake(e):
            return _refuse(e)
        raise


def _set_compiler_flags() -> None:
    """Gives XLA the flags of this machine's platform, before JAX starts, and says so."""
    from trellax.parallel.hardware import apply_xla_flags

    for flag in apply_xla_flags():
        print(f"XLA flag {flag}: {flag.reason}", file=sys.stderr)


def _refuse(error: Exception, code: int = EXIT_USAGE) -> int:
    print(f"trellax: {error}", file=sys.stderr)
    return code


def _is_users_mistake(error: Exception) -> bool:
    """Whether the error is one of those that say how to mend the input, from parts loaded lazily."""
    from trellax.experiments.registry import UnknownExperimentError
    from trellax.experiments.run_folder import RunFolderError
    from trellax.inference.requests import RequestError
    from trellax.parallel.planning import PlanningUnavailableError
    from trellax.runtime import (
        CheckpointMismatchError,
        CheckpointNotFoundError,
        ExecutableMismatchError,
    )
    from trellax.runtime.input import InputError
    from trellax.runtime.pretrained_tokenizer import TokenizerError
    from trellax.runtime.weights import WeightsError

    kinds = (
        UnknownExperimentError,
        RunFolderError,
        InputError,
        CheckpointNotFoundError,
        CheckpointMismatchError,
        ExecutableMismatchError,
        PlanningUnavailableError,
        RequestError,
        TokenizerError,
        WeightsError,
    )
    return isinstance(error, kinds)
