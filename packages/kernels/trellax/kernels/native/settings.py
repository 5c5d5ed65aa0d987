"""Everything that this package reads from the environment, in one place.

| variable          | meaning                                                    | default                    |
|-------------------|------------------------------------------------------------|----------------------------|
| TRELLAX_CACHE_DIR | folder for what can be made again; libraries lie in native/ | `$XDG_CACHE_HOME/trellax`, else `~/.cache/trellax` |
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Returns the folder for compiled libraries; it may not exist yet. Deleting it costs a compilation and nothing else."""
    chosen = os.environ.get("TRELLAX_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser() / "native"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "trellax" / "native"
