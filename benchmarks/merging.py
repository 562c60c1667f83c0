"""What merging saves in an encoder and what it costs; what signals of importance cost.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/merging.py --output runs/merging.json

The encoder is the library's ViT with random weights. Merging inside of it stands between attention
and MLP: keys, the mean of all heads, say which tokens are alike; the class token is never merged;
attention adds log(size) to its scores. `some each layer` merges r tokens in every layer, `half
once` half of them after the third.

Every round runs every candidate once, in turn; ratios are taken within a round. With one thread it
is processor time, so that a shared machine does not count; with more it is wall time. The targets
beside the figures are for one thread and real sizes.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from chiasm.compression.matching import match_tokens
from chiasm.compression.merge import merge_tokens
from chiasm.compression.motion import MOTIONS
from chiasm.compression.saliency import SaliencyConfig
from chiasm.compression.views import ClipView
from chiasm.core.grid import ImageGeometry
from chiasm.core.tokens import VisualTokens
from chiasm.evaluation.provenance import code_commit, installed_versions


@dataclass(frozen=True)
class Shape:
    """An encoder and how much is merged in it.

    Attributes:
        pixels: Side of the picture.
        patch: Side of a patch.
        each: Tokens merged in each layer by `some each layer`.
        width: Width of a token.
        heads: Attention heads.
        layers: Layers.
        after: Layers before `half once`.
        batch: Pictures in a pass. All times are for one picture. With one picture a pass, reading
            the weights counts as much as the tokens do.
    """

    pixels: int = 224
    patch: int = 16
    each: int = 13
    width: int = 384
    heads: int = 6
    layers: int = 12
    after: int = 3
    batch: int = 4

    @property
    def tokens(self) -> int:
        """Tokens with the class token."""
        return (self.pixels // self.patch) ** 2 + 1


SHAPES = {
    "vit-s-197": Shape(),
    "vit-s-577": Shape(pixels=384, each=36),
    "vit-s-1370": Shape(pixels=518, patch=14, each=85),
    "quick": Shape(pixels=140, patch=20, each=5, width=22, heads=2, layers=3, after=1, batch=2),
}
TARGETS = {
    "speed-up: some each layer": ">= 1.5 (197 tokens)",
    "speed-up: half once": ">= 1.6",
    "share of the encoder: matching and merging, each layer": "<= 0.07",
    "share of the encoder: merging half of its tokens": "<= 0.07",
    "share of the encoder: frame difference": "<= 0.01",
    "share of the encoder: change of features": "<= 0.01",
    "share of the encoder: DIS optical flow, fast": "<= 0.03",
}


@dataclass
class Merged:
    """What merging layers tell each other in one forward pass.

    Attributes:
        sizes: float (B, N), how many tokens each stands for; None before the first layer.
        keys: float (B, N, width of a head), the mean of the heads of the current layer.
        seconds: Time spent on matching and merging.
        timed: Whether that time is taken.
    """

    sizes: Tensor | None = None
    keys: Tensor | None = None
    seconds: float = 0.0
    timed: bool = False


class MergingLayer(nn.Module):
    """A layer of the library's ViT that merges between its attention and its MLP.

    Args:
        layer: The layer.
        merged: Shared by all layers of the encoder.
        part: Given the number of tokens, how many of them go.
    """

    def __init__(self, layer: nn.Module, merged: Merged, part: Callable[[int], int]) -> None:
        super().__init__()
        self.layer: Any = layer
        self.merged = merged
        self.part = part
        self.layer.attention.k_proj.register_forward_hook(self._keep_keys)

    def _keep_keys(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        heads = self.layer.attention.num_attention_heads
        self.merged.keys = output.unflatten(-1, (heads, -1)).mean(2)

    def forward(self, states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """As the layer, with fewer tokens out; all tokens of all rows are real."""
        merged, layer = self.merged, self.layer
        if merged.sizes is not None:
            attention_mask = merged.sizes.log()[:, None, None]
        states = states + layer.attention(layer.layernorm_before(states), attention_mask)[0]
        gone = self.part(states.shape[1])
        if gone:
            start = time.process_time() if merged.timed else 0.0
            states = self._merge(states, states.shape[1] - gone)
            merged.seconds += time.process_time() - start if merged.timed else 0.0
        return states + layer.mlp(layer.layernorm_after(states))

    def _merge(self, states: Tensor, keep: int) -> Tensor:
        sizes = self.merged.sizes
        if sizes is None:
            sizes = states.new_ones(states.shape[:2])
        grouping = match_tokens(
            self.merged.keys, [keep] * len(states), weights=sizes, protected=1, step=0.5
        )
        self.merged.sizes = grouping.sums(sizes)
        return grouping.means(states, grouping.shares(sizes))


class Encoder:
    """A ViT with random weights, merging or not, and what it reads."""

    def __init__(self, shape: Shape, part: Callable[[int, int], int] | None = None) -> None:
        torch.manual_seed(0)
        config = ViTConfig(
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=4 * shape.width,
            image_size=shape.pixels,
            patch_size=shape.patch,
        )
        self.model = ViTModel(config, add_pooling_layer=False).eval()
        self.pixels = torch.randn(shape.batch, 3, shape.pixels, shape.pixels)
        self.merged = Merged()
        if part is not None:
            self.model.layers = nn.ModuleList(
                MergingLayer(layer, self.merged, lambda count, place=place: part(place, count))
                for place, layer in enumerate(self.model.layers)
            )

    def run(self) -> Tensor:
        """One pass: float (batch, tokens, width)."""
        self.merged.sizes, self.merged.seconds = None, 0.0
        return self.model(self.pixels).last_hidden_state


def encoders(shape: Shape) -> dict[str, Encoder]:
    """The encoder without merging, and the two ways of merging in it."""

    def half_once(place: int, count: int) -> int:
        return (count - 1) // 2 if place == shape.after - 1 else 0

    return {
        "plain": Encoder(shape),
        "some each layer": Encoder(shape, lambda place, count: min(shape.each, (count - 1) // 2)),
        "half once": Encoder(shape, half_once),
    }


@dataclass(frozen=True)
class Parts:
    """What is measured beside the encoder: its own tokens and pictures of its size."""

    shape: Shape
    tokens: VisualTokens = field(init=False)
    view: ClipView = field(init=False)

    def __post_init__(self) -> None:
        side = self.shape.pixels
        geometry = ImageGeometry.from_resize((side, side), (side, side), (self.shape.patch,) * 2)
        features = torch.randn(2, geometry.count, self.shape.width)
        frames = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8)
        object.__setattr__(self, "tokens", VisualTokens.from_images(features[:1], [geometry]))
        object.__setattr__(self, "view", ClipView(geometry, frames=frames, features=features))

    def candidates(self) -> dict[str, Callable[[], Any]]:
        """Name to work; signals are for one pair of frames, saliency for one frame."""
        keep = self.shape.tokens // 2
        one = ClipView(self.view.geometry, frames=self.view.frames[:1])
        single = {"edge": 0.0, "attention": 0.0, "colour": 0.0}
        found: dict[str, Callable[[], Any]] = {
            "merging half of its tokens": lambda: merge_tokens(self.tokens, keep),
            "frame difference": _magnitude(MOTIONS["difference"]().build(), self.view),
            "change of features": _magnitude(MOTIONS["features"]().build(), self.view),
            "DIS optical flow, fast": _pair_flow(self.view),
        }
        for name in ("edge", "colour", "residual"):
            saliency = SaliencyConfig(**{**single, name: 1.0}).build()
            found[f"saliency: {name}"] = lambda saliency=saliency: saliency.importance(one)
        return found


def _magnitude(motion: Any, view: ClipView) -> Callable[[], Tensor]:
    return lambda: motion.magnitude(view)


def _pair_flow(view: ClipView) -> Callable[[], Tensor]:
    """Two frames take two flows, there and back; one more frame takes one. Returns half of both."""
    motion = MOTIONS["dis"]().build()
    return lambda: motion.magnitude(view)


def seconds(shape: Shape, rounds: int, threads: int) -> dict[str, list[float]]:
    """Run every candidate once a round, and return the seconds of each round."""
    clock = time.process_time if threads == 1 else time.perf_counter
    models = encoders(shape)
    parts = Parts(shape).candidates()
    ways: dict[str, Callable[[], Any]] = {name: model.run for name, model in models.items()}
    ways |= parts
    for way in ways.values():
        way()
    found: dict[str, list[float]] = {name: [] for name in ways}
    inside: list[float] = []
    for _ in range(rounds):
        for name, way in ways.items():
            # Short work is repeated, or the clock's step would count.
            repeats, batch = (1, shape.batch) if name in models else (10, 1)
            gc.collect()
            start = clock()
            for _ in range(repeats):
                way()
            found[name].append((clock() - start) / repeats / batch)
        # Timed apart, so that looking at the clock does not slow the run above.
        merging = models["some each layer"]
        merging.merged.timed = True
        merging.run()
        merging.merged.timed = False
        inside.append(merging.merged.seconds / shape.batch)
    found["DIS optical flow, fast"] = [value / 2 for value in found["DIS optical flow, fast"]]
    return {**found, "matching and merging, each layer": inside}


def ratios(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return speed-ups and shares of the plain encoder: median, least and largest of the rounds."""

    def by_round(top: str, bottom: str) -> dict[str, float]:
        values = [a / b for a, b in zip(times[top], times[bottom], strict=True)]
        return {"median": statistics.median(values), "least": min(values), "largest": max(values)}

    merging = ("some each layer", "half once")
    found = {f"speed-up: {name}": by_round("plain", name) for name in merging}
    for name in times:
        if name not in (*merging, "plain"):
            found[f"share of the encoder: {name}"] = by_round(name, "plain")
    return found


def measure(name: str, rounds: int, threads: int) -> dict[str, Any]:
    """Measure one shape."""
    torch.set_num_threads(threads)
    with torch.no_grad():
        times = seconds(SHAPES[name], rounds, threads)
    return {
        "shape": asdict(SHAPES[name]),
        "tokens": SHAPES[name].tokens,
        "threads": threads,
        "clock": "processor" if threads == 1 else "wall",
        "seconds": times,
        "ratios": ratios(times),
        "targets": TARGETS,
        "versions": installed_versions(),
        "commit": code_commit(),
    }


def table(results: dict[str, Any]) -> str:
    """Return the figures as text."""
    shape = results["shape"]
    lines = [
        f"{shape['layers']} layers, {shape['width']} wide, {shape['heads']} heads, "
        f"{results['tokens']} tokens, {shape['each']} merged each layer or half after layer "
        f"{shape['after']}, {shape['batch']} pictures a pass; {results['threads']} thread(s), "
        f"{results['clock']} time, for one picture"
    ]
    for name, values in results["seconds"].items():
        spread = f"{1e3 * min(values):.3f} to {1e3 * max(values):.3f}"
        lines.append(f"{name:36} {1e3 * statistics.median(values):10.3f} ms  ({spread})")
    for name, ratio in results["ratios"].items():
        told = f"{ratio['median']:.4f} ({ratio['least']:.4f} to {ratio['largest']:.4f})"
        target = TARGETS.get(name)
        lines.append(f"{name:56} {told:28} {'target ' + target if target else ''}".rstrip())
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="vit-s-197")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a tiny shape, one round")
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    options = parser.parse_args(arguments)
    shape, rounds = ("quick", 1) if options.quick else (options.shape, options.rounds)
    results = measure(shape, rounds, options.threads)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=2))
    print(table(results))


if __name__ == "__main__":
    main()
