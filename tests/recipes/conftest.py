"""One furnished folder for all tests of recipes; none of them writes into it."""

from pathlib import Path

import pytest

from tests.recipes.small import furnish


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny host, a tiny eye and data."""
    return furnish(tmp_path_factory.mktemp("home"))
