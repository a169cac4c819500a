"""The folder of fetched weights and data."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder in the environment variable MINIPEFT_CACHE, or else the user's cache folder."""
    chosen = os.environ.get("MINIPEFT_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("minipeft")


def cached(name: str) -> Path | None:
    """Return the folder of ``name`` in the cache, or None if it has not been fetched."""
    folder = cache_folder() / name
    return folder if folder.is_dir() else None
