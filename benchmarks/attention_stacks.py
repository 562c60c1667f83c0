"""What a reader of four layers costs with merging and checkpoints, beside naive attention.

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.attention_stacks --output runs/stacks.json
    ... --lengths 2048 --stacks naive sdpa sdpa+merge --passes both

The reader is that of the long-video models: width 768, 12 heads, an MLP of four widths, one row;
all weights train. `+merge` brings the row to half its tokens before the first layer (matching is
counted) and attention heeds their sizes; `+checkpoint` computes the activations of layers again in
the backward pass.
Time and memory are taken as in `benchmarks.attention`, whose targets have the same form.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.attention import (
    PASSES,
    Target,
    judge,
    measure_memory,
    memory_in_child,
    ratio,
    seconds,
    told_targets,
)
from benchmarks.attention_candidates import QUICK, NaiveAttention, Sizes, Way, way
from chiasm.compression.merge import merge_tokens
from chiasm.core.grid import ImageGeometry
from chiasm.core.tokens import VisualTokens
from chiasm.evaluation.provenance import code_commit, installed_versions
from chiasm.layers.reader import Reader, ReaderConfig

LAYERS, EXPANSION, PERIODS = 4, 4, (1.0, 2.0, 4.0)
STACKS = (
    "naive",
    "sdpa",
    "performer",
    "local_global",
    "sdpa+merge",
    "performer+merge",
    "sdpa+checkpoint",
    "sdpa+merge+checkpoint",
    "performer+merge+checkpoint",
)
TARGETS = (
    *(Target(n, "stack", "both", 2048, "smaller", "naive", 0.30) for n in ("sdpa", "performer")),
    *(Target(n, "stack", "both", 4096, "smaller", "naive", 0.17) for n in ("sdpa", "performer")),
    Target("sdpa+merge", "stack", "both", 2048, "smaller", "naive", 0.18),
    Target("sdpa+merge", "stack", "both", 4096, "smaller", "naive", 0.10),
    Target("sdpa+merge", "stack", "both", 4096, "faster", "sdpa", 2.2),
    Target("sdpa+merge+checkpoint", "stack", "both", 4096, "smaller", "naive", 0.06),
    Target("sdpa+merge+checkpoint", "stack", "both", 4096, "faster", "naive", 4.0),
)


class Stack(nn.Module):
    """A reader of one row of cells, which may be merged before.

    Args:
        name: Attention, and what is added to it, as in `STACKS`.
        sizes: Widths.
        count: Tokens of a row, a power of two.
    """

    def __init__(self, name: str, sizes: Sizes, count: int) -> None:
        super().__init__()
        attention, *more = name.split("+")
        torch.manual_seed(0)
        self.keep = count // 2 if "merge" in more else count
        self.geometry = _geometry(count)
        self.reader = _reader(attention, sizes)
        if "checkpoint" in more:
            self.reader.recompute_layers()

    def forward(self, x: Tensor) -> Tensor:
        """Read float (1, N, D)."""
        tokens = merge_tokens(VisualTokens.from_images(list(x), [self.geometry]), self.keep)
        places = tokens.cells.unflatten(-1, (2, 2)).mean(-2)
        read: Tensor = self.reader(tokens.features, tokens.times, places, tokens.sizes, tokens.mask)
        return read


def _geometry(count: int) -> ImageGeometry:
    rows = 1 << (count.bit_length() - 1) // 2
    size = (rows, count // rows)
    return ImageGeometry.from_resize(size, size, (1, 1))


def _reader(attention: str, sizes: Sizes) -> Reader:
    if attention == "naive":
        mixers: list[Any] = [NaiveAttention(sizes) for _ in range(LAYERS)]
        return Reader(width=sizes.width, mixers=mixers, expansion=EXPANSION, periods=PERIODS)
    options = {
        "sdpa": {},
        "performer": {"features": sizes.features},
        "local_global": {"window": sizes.window, "global_tokens": sizes.first},
    }
    return ReaderConfig(
        attention="dense" if attention == "sdpa" else attention,
        options=options[attention],
        depth=LAYERS,
        heads=sizes.heads,
        expansion=EXPANSION,
        periods=PERIODS,
    ).build(width=sizes.width)


def ways(passes: str, sizes: Sizes, count: int, names: Sequence[str]) -> dict[str, Way]:
    """What is run for each stack."""
    torch.manual_seed(0)
    x = torch.randn(1, count, sizes.width)
    made: dict[str, Callable[[], Any]] = {}
    for name in names:
        inputs = (x.detach().requires_grad_(passes == "both"),)
        made[name] = way(Stack(name, sizes, count), inputs, passes == "both")
    return made


def measure(options: argparse.Namespace, passes: str, count: int) -> dict[str, Any]:
    """Measure one length and pass, memory first."""
    sizes = QUICK if options.quick else Sizes()
    names = [n for n in options.stacks if n != "naive" or count <= options.naive_up_to]
    if passes == "forward":
        names = [n for n in names if "checkpoint" not in n]
    given = ["--passes", passes, "--lengths", str(count), "--stacks", *names]
    given += ["--quick"] if options.quick else []
    extra = memory_in_child("benchmarks.attention_stacks", given)
    torch.set_num_threads(options.threads)
    case: dict[str, Any] = {
        "length": count,
        "level": "stack",
        "passes": passes,
        "threads": options.threads,
        "seconds": seconds(
            ways(passes, sizes, count, names), options.rounds, options.seconds, options.threads
        ),
        "extra_mib": extra,
    }
    case["targets"] = [] if options.quick else judge([case], TARGETS)
    return case


def table(case: dict[str, Any]) -> str:
    """Return one case as text."""
    both = "forward" if case["passes"] == "forward" else "forward and backward"
    lines = [
        f"{case['length']} tokens, {LAYERS} layers, {both} ({case['threads']} thread(s))",
        f"{'':28}{'s':>8}{'x naive':>9}{'x SDPA':>8}{'MiB':>8}{'of naive':>10}  targets",
    ]
    slow = case["extra_mib"].get("naive")
    for name, times in case["seconds"].items():
        speeds = [ratio(case["seconds"], base, name) for base in ("naive", "sdpa")]
        mib = case["extra_mib"][name]
        lines.append(
            f"{name:28}{statistics.median(times):8.2f}"
            + "".join(
                f"{'' if speed is None else format(speed['median'], '.2f'):>{wide}}"
                for speed, wide in zip(speeds, (9, 8), strict=True)
            )
            + f"{mib:8.0f}{'' if not slow else format(mib / slow, '.1%'):>10}  "
            + told_targets(case, name)
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192])
    parser.add_argument("--stacks", nargs="+", choices=STACKS, default=list(STACKS))
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=["both"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120, help="for each table, about")
    parser.add_argument("--naive-up-to", type=int, default=4096, help="it needs 20 GB at 8192")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round")
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    sizes = QUICK if options.quick else Sizes()
    if options.quick:
        options.rounds = 1
    if options.memory_only:
        torch.set_num_threads(1)
        made = ways(options.passes[0], sizes, options.lengths[0], options.stacks)
        print(json.dumps(measure_memory(made)))
        return
    cases = []
    for passes in options.passes:
        for count in options.lengths:
            cases.append(measure(options, passes, count))
            print(table(cases[-1]), end="\n\n", flush=True)
            if options.output is not None:
                options.output.parent.mkdir(parents=True, exist_ok=True)
                about = {"versions": installed_versions(), "commit": code_commit()}
                told = {"sizes": asdict(sizes), "layers": LAYERS, "cases": cases}
                options.output.write_text(json.dumps({**told, **about}, indent=2))


if __name__ == "__main__":
    main()
