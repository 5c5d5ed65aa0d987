"""Everything that the runtime reads from the environment, in one place.

| variable          | meaning                                                    | default           |
|-------------------|------------------------------------------------------------|-------------------|
| TRELLAX_CACHE_DIR | folder for what can be made again (tokenizers, token files, compiled programs) | see `cache_dir()` |

    from trellax.runtime import settings
    settings.cache_dir()
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Returns the folder for what can be made again; it may not exist yet.

    It is `$TRELLAX_CACHE_DIR`, else `$XDG_CACHE_HOME/trellax`, else `~/.cache/trellax`. Deleting it
    costs time and nothing else.
    """
    chosen = os.environ.get("TRELLAX_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "trellax"
