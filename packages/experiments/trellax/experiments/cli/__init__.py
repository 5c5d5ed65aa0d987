"""The command line of Trellax."""

from trellax.experiments.cli.main import main, run

__all__ = ["main", "run"]
