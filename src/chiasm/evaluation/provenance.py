"""Where numbers come from: versions, code, data. Goes into every report."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("chiasm", "torch", "transformers", "accelerate", "peft", "numpy", "pillow")


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that shape numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def code_commit() -> str | None:
    """Return the commit of chiasm's own code, with "+changes" where files differ from it.

    None where the code is not in a git working tree, or git is not there.
    """
    folder = Path(__file__).parent
    # An environment inside somebody's own repository must not report that repository's commit.
    if shutil.which("git") is None or _git(folder, "ls-files", Path(__file__).name) in (None, ""):
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder.parent, "status", "--porcelain", "--", ".")
    return f"{commit}+changes" if commit and changes else commit


def _git(folder: Path, *arguments: str) -> str | None:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def fingerprint(identifiers: Iterable[str]) -> str:
    """Return the SHA-256 of identifiers in their order, as hexadecimal digits."""
    digest = hashlib.sha256()
    for identifier in identifiers:
        # The length in front keeps ("ab", "c") apart from ("a", "bc").
        digest.update(f"{len(identifier)}:{identifier}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
