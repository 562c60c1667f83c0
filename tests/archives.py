"""Unpacking of archives of real data, on every Python that the package runs on."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path


def unpack(archive: Path, folder: Path, wanted: Callable[[str], bool] | None = None) -> None:
    """Unpack a tar file, or those of its members whose names are wanted."""
    with tarfile.open(archive) as content:
        members = [m for m in content.getmembers() if wanted is None or wanted(m.name)]
        # Python 3.11.3 and earlier know no filter; 3.12 and later want one.
        if "data_filter" in vars(tarfile):
            content.extractall(folder, members=members, filter="data")
        else:
            content.extractall(folder, members=members)
