"""`trellax html NAME [OTHER]`: the config tree, or two side by side, as one self-contained page."""

from __future__ import annotations

from pathlib import Path

from trellax.config import diff_html, to_html
from trellax.experiments.cli.arguments import Arguments, UsageError
from trellax.experiments.cli.configs import config_of
from trellax.runtime import write_atomically


def run(arguments: Arguments) -> int:
    """Writes the page and prints where it is."""
    cfg = config_of(arguments, arguments.name)
    if arguments.other:
        other = config_of(arguments, arguments.other)
        page = diff_html(cfg, other, names=(arguments.name, arguments.other))
        name = f"{arguments.name}-{arguments.other}.html"
    else:
        page, name = to_html(cfg, title=arguments.name), f"{arguments.name}.html"
    file = Path(arguments.flags.output or name.replace(":", "."))
    try:
        write_atomically(file, page)
    except OSError as e:
        raise UsageError(f"{file} cannot be written: {e.strerror}.") from e
    print(file)
    return 0
