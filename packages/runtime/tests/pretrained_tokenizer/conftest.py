"""Every test has a cache folder of its own: trained tokenizers go there."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, empty at first."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TRELLAX_CACHE_DIR", str(folder))
    return folder
