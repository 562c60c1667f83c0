"""Published parameter names of models that transformers does not hold, and their names here."""

from __future__ import annotations

from chiasm.language.checkpoints.hpt import rename_hpt, resize_positions
from chiasm.language.checkpoints.mgm import rename_mgm
from chiasm.language.checkpoints.renaming import Renamed, load_renamed

__all__ = ["Renamed", "load_renamed", "rename_hpt", "rename_mgm", "resize_positions"]
