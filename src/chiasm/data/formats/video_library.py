"""Where the video of an id lies: as a video file, a folder of frames, or a file of features."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from chiasm.data.feature_files import FEATURE_SUFFIXES
from chiasm.data.video import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts")

FOLDERS = ("videos", "frames", "features")
"""Folders beside the annotations, or beside the folder that holds them, the first one first."""


@dataclass
class VideoLibrary:
    """The videos around a media root; each folder is listed once.

    Attributes:
        root: Folder that paths start from.
    """

    root: Path
    _listed: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)

    @property
    def folders(self) -> list[Path]:
        """The folders that are looked into, in order."""
        around = [self.root, self.root.parent]
        return [self.root, *(place / name for place in around for name in FOLDERS)]

    def find(self, name: str) -> Path | str:
        """Return where the video of an id lies, or what is wrong.

        Args:
            name: The id: a name with or without suffix, or a path from the root.
        """
        path = self.root / name
        # A name with a suffix of any kind means a file; whether that is a video, its reader tells.
        if path.suffix and path.is_file():
            return path
        for folder in self.folders:
            found = self._list(folder).get(name, [])
            if len(found) > 1:
                names = ", ".join(sorted(place.name for place in found))
                return f"{name!r} is {names} in {folder}"
            if found:
                return found[0]
        if path.is_dir() and any(one.suffix.lower() in IMAGE_SUFFIXES for one in path.iterdir()):
            return path
        return f"{name!r} is no video, folder of frames or file of features"

    def _list(self, folder: Path) -> dict[str, list[Path]]:
        """Return what a folder holds, by name and by name without suffix."""
        if folder not in self._listed:
            held: dict[str, list[Path]] = {}
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.is_dir() and folder.name == "frames":
                    held.setdefault(path.name, []).append(path)
                elif path.suffix.lower() in (*VIDEO_SUFFIXES, *FEATURE_SUFFIXES):
                    held.setdefault(path.name, []).append(path)
                    held.setdefault(path.stem, []).append(path)
            self._listed[folder] = held
        return self._listed[folder]
