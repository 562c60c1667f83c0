"""The candidates of `benchmarks/attention.py`: what is run, on what, and its arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from chiasm.layers.attention import ATTENTION
from chiasm.layers.attention.cross_memory import pool_rows
from chiasm.layers.attention.dense import softmax_attention
from chiasm.layers.attention.hierarchical import hierarchical_attention
from chiasm.layers.attention.kernel import kernel_attention
from chiasm.layers.attention.linear import EluFeatures, LinearBlock
from chiasm.layers.attention.local_global import local_global_attention
from chiasm.layers.attention.performer import PositiveFeatures, draw_directions
from chiasm.layers.attention.rows import Projections
from chiasm.layers.attention.strided import strided_attention
from chiasm.layers.scan import selective_scan


@dataclass(frozen=True)
class Sizes:
    """What is measured; the defaults are those of the targets."""

    width: int = 768
    heads: int = 12
    stride: int = 4
    window: int = 128
    first: int = 16
    slots: int = 64
    features: int = 128
    state: int = 16
    expand: int = 2
    levels: int = 3
    near: int = 64

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.heads


QUICK = Sizes(22, 2, 3, 5, 2, 7, 13, 3, 2, 2, 4)


def naive(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The whole map."""
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v


class NaiveAttention(nn.Module):
    """Projections around the whole map. Every token is real and stands for itself."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.projections = Projections(width=sizes.width, heads=sizes.heads)

    def forward(self, x: Tensor, mask: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        return self.projections.join(naive(*self.projections(x)))


def memory_core(q: Tensor, k: Tensor, v: Tensor, slots: int) -> Tensor:
    """Keys and values averaged in slots, then attention to them."""
    pooled, biases = [], []
    for t in (k, v):
        rows, bias = pool_rows(t.transpose(1, 2).flatten(2), None, slots)
        pooled.append(rows.unflatten(2, (q.shape[1], -1)).transpose(1, 2))
        biases.append(bias)
    return softmax_attention(q, pooled[0], pooled[1], bias=biases[0])


def core_inputs(name: str, sizes: Sizes, count: int) -> tuple[Tensor, ...]:
    """Queries, keys and values as projections leave them; for Mamba the inputs of the scan."""
    torch.manual_seed(0)
    if name not in SCANS:
        made = torch.randn(3, 1, count, sizes.heads, sizes.head)
        return tuple(t.clone().transpose(1, 2) for t in made)
    channels, state = sizes.expand * sizes.width, sizes.state
    decay = -torch.arange(1.0, state + 1).repeat(channels, 1)
    steps = torch.empty(1, count, channels).uniform_(-7, -2.3).exp()
    drawn = [torch.randn(1, count, size) for size in (channels, state, state)]
    return drawn[0], steps, decay, drawn[1], drawn[2], torch.ones(channels)


def cores(sizes: Sizes) -> dict[str, Callable[..., Tensor]]:
    """Every core by name."""
    torch.manual_seed(0)
    positive = PositiveFeatures(draw_directions(sizes.features, sizes.head))
    logits = torch.zeros(sizes.heads, sizes.levels)
    pieces = tuple(2**level for level in range(sizes.levels))
    windows = (*[sizes.near] * (sizes.levels - 1), None)
    return {
        "naive": naive,
        "sdpa": scaled_dot_product_attention,
        "strided": lambda q, k, v: strided_attention(q, k, v, stride=sizes.stride),
        "local_global": lambda q, k, v: local_global_attention(
            q, k, v, window=sizes.window, global_tokens=sizes.first
        ),
        "cross_memory": lambda q, k, v: memory_core(q, k, v, sizes.slots),
        "performer": lambda q, k, v: kernel_attention(q, k, v, positive)[0],
        "mamba": lambda *inputs: selective_scan(*inputs)[0],
        "hierarchical": lambda q, k, v: hierarchical_attention(
            q, k, v, logits, pieces=pieces, windows=windows
        ),
        "linear": lambda q, k, v: kernel_attention(q, k, v, EluFeatures(sizes.head))[0],
    }


def modules(sizes: Sizes) -> dict[str, nn.Module]:
    """Every module by name."""
    torch.manual_seed(0)
    choices: dict[str, dict[str, Any]] = {
        "strided": {"stride": sizes.stride},
        "local_global": {"window": sizes.window, "global_tokens": sizes.first},
        "cross_memory": {"slots": sizes.slots},
        "performer": {"features": sizes.features},
        "mamba": {"state": sizes.state, "expand": sizes.expand, "causal": True},
        "hierarchical": {"levels": sizes.levels, "window": sizes.near},
        "linear": {},
    }
    shape = {"width": sizes.width, "heads": sizes.heads}
    built: dict[str, nn.Module] = {
        "naive": NaiveAttention(sizes),
        "sdpa": ATTENTION["dense"](**shape).build(),
    }
    for name, more in choices.items():
        module = ATTENTION[name](**shape, **more).build()
        built[name] = module.mixer if isinstance(module, LinearBlock) else module
    return built


def others(sizes: Sizes) -> dict[str, Callable[..., Tensor]]:
    """Cores of packages that do the same, of those that are installed."""
    torch.manual_seed(0)
    found: dict[str, Callable[..., Tensor]] = {}
    if "performer-pytorch" in OTHERS:
        package = import_module("performer_pytorch")
        found["performer-pytorch"] = package.FastAttention(
            dim_heads=sizes.head, nb_features=sizes.features
        )
    if "mambapy" in OTHERS:
        parallel = import_module("mambapy.pscan").pscan

        def scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
            states = parallel((dt[..., None] * a).exp(), (dt * x)[..., None] * b[:, :, None])
            return (states @ c[..., None])[..., 0] + d * x

        found["mambapy"] = scan
    return found


NAMES = tuple(cores(QUICK))
_PACKAGES = {"performer-pytorch": "performer_pytorch", "mambapy": "mambapy"}
OTHERS = tuple(name for name, package in _PACKAGES.items() if find_spec(package) is not None)
"""What others offer, where it is installed; their cores only."""
SCANS = ("mamba", "mambapy")


def operations(name: str, sizes: Sizes, count: int) -> float:
    """Operations of a core's forward pass, a product and its sum counted as two."""
    pairs = 4 * sizes.width
    name = {"performer-pytorch": "performer", "mambapy": "mamba"}.get(name, name)
    keys = {
        "naive": count,
        "sdpa": count,
        "strided": count / sizes.stride,
        "local_global": min(2 * sizes.window + 1 + sizes.first, count),
        "cross_memory": min(sizes.slots, count),
        "performer": 2 * sizes.features,
        "linear": 2 * sizes.head,
        "mamba": 2 * sizes.expand * sizes.state,
        "hierarchical": (2 * sizes.near + 1) * sum(0.5**i for i in range(sizes.levels - 1))
        + count * 0.25 ** (sizes.levels - 1),
    }
    return pairs * count * keys[name]


def memory_floor(passes: str, sizes: Sizes, count: int) -> float:
    """MiB of the output, and of the gradients of three inputs of its size."""
    return (1 if passes == "forward" else 4) * count * sizes.width * 4 / 2**20


Way = Callable[[], Any]


def ways(level: str, passes: str, sizes: Sizes, count: int, names: Sequence[str]) -> dict[str, Way]:
    """What is run for each candidate."""
    backward = passes == "both"
    made: dict[str, Way] = {}
    functions: Mapping[str, Any] = modules(sizes)
    if level == "core":
        functions = {**cores(sizes), **others(sizes)}
    shared: tuple[Tensor, ...] = ()
    if level == "core":
        shared = core_inputs("sdpa", sizes, count)
    else:
        torch.manual_seed(0)
        shared = (torch.randn(1, count, sizes.width),)
    for name in names:
        special = level == "core" and name in SCANS
        inputs = core_inputs(name, sizes, count) if special else shared
        if backward:
            inputs = tuple(t.detach().requires_grad_() for t in inputs)
        made[name] = way(functions[name], inputs, backward)
    return made


def way(function: Any, inputs: tuple[Tensor, ...], backward: bool) -> Way:
    """Return a forward pass, or both: gradients of inputs and of all weights."""
    asked = list(inputs)
    if backward and isinstance(function, nn.Module):
        asked += [p for p in function.parameters() if p.requires_grad]

    def run() -> Tensor | tuple[Tensor, ...]:
        if not backward:
            with torch.no_grad():
                return function(*inputs)
        y = function(*inputs)
        return torch.autograd.grad(y, asked, torch.ones_like(y))

    return run
