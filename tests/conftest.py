"""Settings shared by all tests: offline, one small thread pool, real data where it is at hand."""

import os
from pathlib import Path

# Before any library reads them: tests never leave the machine.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Workers of pytest-xdist share the cores; one thread each is faster than two that fight, and keeps
# bit-for-bit comparisons independent of the machine's core count.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

PROJECT_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> None:
    """Hold torch to the thread count of the environment, also where OpenMP came up earlier."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The folder that holds pyproject.toml."""
    return PROJECT_ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout, or the one CHIASM_SHARED_DATA names."""
    named = os.environ.get("CHIASM_SHARED_DATA")
    folder = Path(named) if named else PROJECT_ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(
            f"no real data: {'CHIASM_SHARED_DATA' if named else 'the default'} points at a folder "
            "that does not exist; set CHIASM_SHARED_DATA to the folder that holds it"
        )
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests whose device is not there, and say so."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
