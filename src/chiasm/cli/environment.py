"""What chiasm finds around it: versions, pairs that must match, devices, extras, shipped models.

Every check that can fail is tried, not guessed: a torchvision built for another torch has a fine
version number and breaks on its first operator.
"""

import platform
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from chiasm import __version__

REQUIRED = (
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "peft",
    "safetensors",
    "tokenizers",
    "numpy",
    "pillow",
    "pyarrow",
    "pycocotools",
    "pydantic",
    "pyyaml",
    "snowballstemmer",
    "jinja2",
    "tensorboard",
    "typer",
    "rich",
)
# The distribution whose presence says that an extra is there; the rest of an extra comes along.
EXTRAS = {
    "video": ("av", "opencv-python-headless"),
    "torchcodec": ("torchcodec",),
    "deepspeed": ("deepspeed",),
    "serve": ("fastapi", "uvicorn", "python-multipart"),
    "timm": ("timm",),
    "eval": ("sacrebleu",),
}
PURPOSES = {
    "video": "reading video files and optical flow",
    "torchcodec": "decoding video files with torchcodec in place of PyAV",
    "deepspeed": "the ZeRO engine for training on several devices",
    "serve": "the OpenAI-compatible server",
    "timm": "vision towers that transformers does not carry",
    "eval": "published metric implementations to compare with",
}
# What `load` and `quickstart` need without a network.
SHIPPED = (
    "tiny-host",
    "tiny-eye",
    "tiny-dual",
    "tiny-host-112",
    "tiny-sam",
    "tiny-grounding",
    "tiny-pair-host",
    "tiny-pair-tokenizer",
    "tiny-pair",
    "tiny-video",
    "tiny-video-memory",
)
GIBIBYTE = 1024**3


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: What was looked at.
        ok: It is as it must be.
        required: chiasm does not work without it.
        found: What is there.
        wanted: What must be there; empty when anything goes.
        next_step: What to do about it; empty when `ok`.
    """

    name: str
    ok: bool
    required: bool
    found: str
    wanted: str = ""
    next_step: str = ""


@dataclass
class Diagnosis:
    """All that the doctor saw, in the order it is shown."""

    versions: list[Check] = field(default_factory=list)
    pairs: list[Check] = field(default_factory=list)
    devices: dict[str, Any] = field(default_factory=dict)
    attention: list[Check] = field(default_factory=list)
    extras: list[Check] = field(default_factory=list)
    assets: list[Check] = field(default_factory=list)

    @property
    def checks(self) -> list[Check]:
        """Every check of every section."""
        return [*self.versions, *self.pairs, *self.attention, *self.extras, *self.assets]

    @property
    def healthy(self) -> bool:
        """Nothing required is broken."""
        return all(check.ok for check in self.checks if check.required)

    def document(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {"healthy": self.healthy, **asdict(self)}


def examine() -> Diagnosis:
    """Look at everything; imports torch and transformers where they are to be tried."""
    diagnosis = Diagnosis(
        versions=[check_python(), check_chiasm(), *(check_version(name) for name in REQUIRED)],
        pairs=[
            tried("torch", try_torch, reinstall_torch),
            tried("torch with torchvision", try_torchvision, torchvision_next_step),
            tried("transformers with its hook", try_encoder_outputs, upgrade_transformers),
        ],
        attention=check_attention(),
        extras=[check_extra(name) for name in EXTRAS],
        assets=[check_asset(name) for name in SHIPPED],
    )
    if diagnosis.pairs[0].ok:
        diagnosis.devices = find_devices()
    return diagnosis


def installed(distribution: str) -> str | None:
    """The version of a distribution, None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def wanted_version(distribution: str) -> str:
    """The range chiasm's own metadata asks for, such as `>=5.18`."""
    # Run from its sources without being installed, chiasm has no metadata to ask.
    requirements = metadata.requires("chiasm") if installed("chiasm") else None
    for requirement in requirements or []:
        named = re.match(r"([A-Za-z0-9._-]+)\s*([^;\[]*)", requirement)
        if named is not None and named[1].lower() == distribution:
            return named[2].strip()
    return ""


def release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: `2.9.1+cu130` and `2.9.1rc2` are (2, 9, 1)."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in leading[0].split(".")) if leading else ()


def check_python() -> Check:
    """Python itself."""
    found = platform.python_version()
    ok = (3, 10) <= release(found) < (3, 14)
    return Check(
        name="python",
        ok=ok,
        required=True,
        found=found,
        wanted=">=3.10,<3.14",
        next_step="" if ok else "make an environment with Python 3.10 to 3.13",
    )


def check_chiasm() -> Check:
    """The package itself; what it requires is only known once it is installed."""
    ok = installed("chiasm") is not None
    return Check(
        name="chiasm",
        ok=ok,
        required=True,
        found=__version__ if ok else f"{__version__}, not installed",
        next_step="" if ok else "pip install -e . in the folder of pyproject.toml",
    )


def check_version(distribution: str) -> Check:
    """One distribution that chiasm requires, against its lower bound."""
    wanted, found = wanted_version(distribution), installed(distribution)
    ok = found is not None and release(found) >= release(wanted.removeprefix(">="))
    return Check(
        name=distribution,
        ok=ok,
        required=True,
        found=found or "missing",
        wanted=wanted,
        next_step="" if ok else f"pip install --upgrade '{distribution}{wanted}'",
    )


def tried(name: str, trial: Callable[[], str], next_step: Callable[[], str]) -> Check:
    """A check by doing it: whatever the trial raises is what was found."""
    try:
        found = trial()
    # A mismatched binary raises ImportError, RuntimeError, OSError or AttributeError, each with
    # its own words; all of them are the answer to this question.
    except Exception as fault:
        first_line = str(fault).strip().splitlines()[0] if str(fault).strip() else "no message"
        return Check(
            name=name,
            ok=False,
            required=True,
            found=f"{type(fault).__name__}: {first_line}",
            next_step=next_step(),
        )
    return Check(name=name, ok=True, required=True, found=found)


def try_torch() -> str:
    """Import torch and compute."""
    import torch

    total = float(torch.ones(2, 3).sum())
    if total != 6.0:
        raise RuntimeError(f"torch adds six ones to {total}")
    return "computes"


def reinstall_torch() -> str:
    """What to do where torch does not even import."""
    return "pip install --force-reinstall torch torchvision"


def try_torchvision() -> str:
    """Call one compiled operator of torchvision, as the Qwen classes do when imported."""
    import torch
    from torchvision.ops import nms

    boxes = torch.tensor([[0.0, 0.0, 2.0, 3.0], [0.0, 0.0, 2.0, 3.0]])
    kept = nms(boxes, torch.tensor([0.7, 0.5]), 0.5)
    if kept.tolist() != [0]:
        raise RuntimeError(f"torchvision.ops.nms kept {kept.tolist()} of two equal boxes, not [0]")
    return "torchvision.ops.nms runs"


def build_of(version: str | None) -> str:
    """What a wheel was built for: `cpu`, `cu130`, or `ordinary` where the version does not say."""
    return version.partition("+")[2] or "ordinary" if version else "missing"


def torchvision_next_step() -> str:
    """How to pair torch and torchvision again, from what is installed."""
    torch_version, vision_version = installed("torch"), installed("torchvision")
    cause = "they were built for different releases of torch"
    if build_of(torch_version) != build_of(vision_version):
        cause = (
            f"torch is the {build_of(torch_version)} build, torchvision the "
            f"{build_of(vision_version)} build"
        )
    return (
        f"torch {torch_version} and torchvision {vision_version} do not fit: {cause}. Install both "
        "together from one place: pip install --force-reinstall torch torchvision"
    )


def try_encoder_outputs() -> str:
    """Ask a host class for `mm_encoder_outputs`, the argument that visual features enter by."""
    from inspect import signature

    host = import_module("transformers").Qwen2_5_VLForConditionalGeneration
    if "mm_encoder_outputs" not in signature(host.forward).parameters:
        raise RuntimeError(
            "Qwen2_5_VLForConditionalGeneration.forward does not take mm_encoder_outputs"
        )
    return "mm_encoder_outputs is taken"


def upgrade_transformers() -> str:
    """The first release with the hook."""
    return "pip install --upgrade 'transformers>=5.18'; if that is there, mend the pair above first"


def find_devices() -> dict[str, Any]:
    """What the models can run on; memory in GiB."""
    import os

    import torch

    memory = 0.0
    # Absent on Windows.
    if "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIBIBYTE
    cuda = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        cuda.append(
            {
                "name": properties.name,
                "memory_gib": round(properties.total_memory / GIBIBYTE, 1),
                "bfloat16": torch.cuda.is_bf16_supported(),
            }
        )
    return {
        "cpu_cores": os.cpu_count(),
        "cpu_threads": torch.get_num_threads(),
        "memory_gib": round(memory, 1),
        "cuda": cuda,
        "mps": torch.backends.mps.is_available(),
    }


def check_attention() -> list[Check]:
    """Attention kernels beyond eager, which is always there."""
    backends = [Check(name="sdpa", ok=True, required=False, found="part of torch (default)")]
    for name, distribution in (("flash_attention_2", "flash-attn"), ("flash_attention_3", "")):
        module = "flash_attn" if distribution else "flash_attn_interface"
        ok = find_spec(module) is not None
        backends.append(
            Check(
                name=name,
                ok=ok,
                required=False,
                found="installed" if ok else "not installed",
                next_step="" if ok else "optional, for CUDA devices; sdpa gives the same answers",
            )
        )
    return backends


def check_extra(extra: str) -> Check:
    """The distributions of one extra."""
    versions = {name: installed(name) for name in EXTRAS[extra]}
    missing = [name for name, version in versions.items() if version is None]
    return Check(
        name=extra,
        ok=not missing,
        required=False,
        found=", ".join(f"{name} {version or 'missing'}" for name, version in versions.items()),
        wanted=PURPOSES[extra],
        next_step="" if not missing else f"pip install 'chiasm[{extra}]'",
    )


def assets_folder() -> Path:
    """Where the package keeps its shipped models."""
    return Path(__file__).resolve().parents[1] / "assets"


def check_asset(name: str) -> Check:
    """One shipped model: a folder with weights in safetensors."""
    weights = sorted((assets_folder() / name).rglob("*.safetensors"))
    size = sum(path.stat().st_size for path in weights)
    return Check(
        name=name,
        ok=bool(weights),
        required=True,
        found=f"{size / 1e6:.1f} MB of weights" if weights else "missing",
        next_step="" if weights else "install chiasm again: its package data is incomplete",
    )
