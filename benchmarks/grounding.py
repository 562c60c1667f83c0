"""What the maps of a phrase cost: the tap beside the published path and beside no maps at all.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/grounding.py --output runs/grounding.json

The published path keeps every attention map and every hidden state (eager attention,
`output_attentions`, `output_hidden_states`) and cuts rows of the phrase and columns of the picture
out of them. The tap computes these rows only. A further phrase about the same picture is read
after the kept prefix. Weights are random: time and memory do not depend on them.

Time: every round runs every candidate once, in turn; ratios are taken within a round. With one
thread it is processor time, so that a shared machine does not count; with more it is wall time.
Memory: peak resident memory above the loaded model, each candidate in a forked process of its own
and on its second run there, with what is freed returned to the system at once.

`--shape deepseek` runs the real shape of DeepSeek-VL-1.3B, tower included; it needs 9 GB.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DeepseekVLConfig,
    DeepseekVLModel,
    LlamaConfig,
    LlamaModel,
    SiglipVisionConfig,
)

from chiasm.core.batch import IGNORE, IMAGE_TOKEN
from chiasm.evaluation.peak_memory import peak_memory
from chiasm.evaluation.provenance import code_commit, installed_versions
from chiasm.language.prefix import Prefix
from chiasm.language.splice import Spliced
from chiasm.language.tap import tap

IMAGE_ID = 5


@dataclass(frozen=True)
class Shape:
    """A decoder, and a text of `before` tokens, a picture and what follows it.

    Attributes:
        layers: Decoder layers.
        width: Width of a token.
        heads: Attention heads.
        inner: Width inside the MLP.
        vocabulary: Rows of the embedding.
        before: Text tokens before the picture.
        image: Tokens of the picture.
        tokens: Tokens in all.
        asked: Tokens at the end that belong to the question about one phrase.
        phrase: Tokens of the phrase, the last of these.
        tower: (layers, width, heads, pixels, patch) of a vision tower, or None for none.
    """

    layers: int = 12
    width: int = 768
    heads: int = 12
    inner: int = 2048
    vocabulary: int = 32000
    before: int = 35
    image: int = 1500
    tokens: int = 2500
    asked: int = 24
    phrase: int = 8
    tower: tuple[int, int, int, int, int] | None = None


SHAPES = {
    "llama": Shape(),
    "deepseek": Shape(
        layers=24,
        width=2048,
        heads=16,
        inner=5504,
        vocabulary=102400,
        image=576,
        tokens=680,
        tower=(24, 1024, 16, 384, 16),
    ),
    "quick": Shape(3, 44, 2, 29, 53, 5, 41, 79, 11, 4),
    "quick-deepseek": Shape(3, 44, 2, 29, 53, 5, 9, 37, 11, 4, tower=(2, 26, 2, 21, 7)),
}


class Reader:
    """A model of a shape with random weights, and what it reads."""

    def __init__(self, shape: Shape) -> None:
        torch.manual_seed(0)
        self.shape = shape
        self.model = (_llama(shape) if shape.tower is None else _deepseek(shape)).eval()
        with torch.no_grad():
            # Random weights look everywhere alike; sharper attention makes differences visible.
            for layer in self.model.get_decoder().layers:
                layer.self_attn.q_proj.weight.mul_(4)
                layer.self_attn.k_proj.weight.mul_(4)
        self.pixels = torch.randn(1, 3, shape.tower[3], shape.tower[3]) if shape.tower else None
        ids = torch.randint(IMAGE_ID + 1, shape.vocabulary, (1, shape.tokens))
        kinds = torch.zeros_like(ids)
        kinds[:, shape.before : shape.before + shape.image] = IMAGE_TOKEN
        self.spliced = Spliced(
            input_ids=ids.masked_fill(kinds == IMAGE_TOKEN, IMAGE_ID) if shape.tower else ids,
            attention_mask=torch.ones_like(ids),
            labels=torch.full_like(ids, IGNORE),
            token_types=kinds,
            position_ids=torch.arange(shape.tokens)[None],
            sources=torch.arange(shape.tokens)[None],
            mm_encoder_outputs={},
            host_kwargs={},
        )
        self.queries = torch.arange(shape.tokens - shape.phrase, shape.tokens)
        self.keys = torch.arange(shape.before, shape.before + shape.image)

    def run(self, spliced: Spliced, **more: Any) -> Any:
        """One pass of the model, no scores of tokens."""
        pixels = {"pixel_values": self.pixels} if self.pixels is not None else {}
        if not bool((spliced.token_types == IMAGE_TOKEN).any()):
            pixels = {}
        return self.model(
            input_ids=spliced.input_ids,
            attention_mask=spliced.attention_mask,
            position_ids=spliced.position_ids,
            **{"use_cache": False, **pixels, **more},
        )

    def read(self, spliced: Spliced, past: Any = None) -> Tensor:
        """As `Host.read`."""
        more = {} if past is None else {"past_key_values": past, "use_cache": True}
        return self.run(spliced, **more).last_hidden_state

    def set_attention(self, name: str) -> None:
        """Choose the decoder's attention; the tower keeps its own."""
        self.model.get_decoder().set_attn_implementation(name)

    def prefix(self) -> Prefix:
        """Read all but the question."""
        end = self.shape.tokens - self.shape.asked
        cut = {
            name: getattr(self.spliced, name)[:, :end]
            for name in ("input_ids", "attention_mask", "labels", "token_types", "position_ids")
        }
        return Prefix.read(self, replace(self.spliced, sources=cut["position_ids"], **cut))

    def ask(self, prefix: Prefix) -> tuple[Tensor, Tensor]:
        """Read the question after the prefix."""
        asked = self.spliced.input_ids[:, -self.shape.asked :]
        queries = torch.arange(self.shape.asked - self.shape.phrase, self.shape.asked)[None]
        got = prefix.ask(asked, queries=queries, keys=self.keys, hidden=True)
        return got.rows.channels()[0], torch.stack(got.rows.hidden)[:, 0].sum(0)


def _llama(shape: Shape) -> LlamaModel:
    return LlamaModel(_text(shape))


def _text(shape: Shape) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=8192,
    )


def _deepseek(shape: Shape) -> DeepseekVLModel:
    layers, width, heads, pixels, patch = shape.tower or (0, 0, 0, 0, 0)
    vision = SiglipVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=pixels,
        patch_size=patch,
        vision_use_head=False,
    )
    return DeepseekVLModel(
        DeepseekVLConfig(text_config=_text(shape), vision_config=vision, image_token_id=IMAGE_ID)
    )


Maps = tuple[Tensor, Tensor]
"""Maps float (layers * heads, phrase, image), and states (phrase, width) summed over layers."""


def plain(reader: Reader) -> None:
    """SDPA, no maps: what reading costs anyway."""
    reader.run(reader.spliced)


def published(reader: Reader) -> Maps:
    """Keep all maps and states, then cut."""
    reader.set_attention("eager")
    output = reader.run(reader.spliced, output_attentions=True, output_hidden_states=True)
    reader.set_attention("sdpa")
    image = slice(int(reader.keys[0]), int(reader.keys[-1]) + 1)
    maps = torch.cat([layer[0, :, reader.queries][..., image] for layer in output.attentions])
    states = torch.stack([layer[0] for layer in output.hidden_states[-reader.shape.layers :]])
    return maps, states.sum(0)[reader.queries]


def tapped(reader: Reader) -> Maps:
    """The tap, with hidden states."""
    with tap(reader.model, queries=reader.queries[None], keys=reader.keys, hidden=True) as rows:
        reader.run(reader.spliced)
    return rows.channels()[0], torch.stack(rows.hidden)[:, 0].sum(0)


def first(reader: Reader) -> Maps:
    """The prefix, and the first phrase after it."""
    return reader.ask(reader.prefix())


CANDIDATES: dict[str, Callable[[Reader], Any]] = {
    "plain": plain,
    "published": published,
    "tap": tapped,
    "first phrase": first,
}
FURTHER = "further phrase"


def differences(reader: Reader) -> dict[str, float]:
    """Largest difference of the maps and states of every way, from the published ones."""
    maps, states = published(reader)
    found = {"largest map value": float(maps.max())}
    for name, way in (("tap", tapped), ("first phrase", first)):
        other_maps, other_states = way(reader)
        found[f"{name}, maps"] = float((maps - other_maps).abs().max())
        found[f"{name}, states relative"] = float((states - other_states).norm() / states.norm())
    return found


def seconds(reader: Reader, rounds: int, threads: int) -> dict[str, list[float]]:
    """Run every candidate once a round, and return the seconds of each round."""
    clock = time.process_time if threads == 1 else time.perf_counter
    found: dict[str, list[float]] = {name: [] for name in (*CANDIDATES, FURTHER)}
    prefix = reader.prefix()
    ways: dict[str, Callable[[], Any]] = {
        name: lambda way=way: way(reader) for name, way in CANDIDATES.items()
    }
    ways[FURTHER] = lambda: reader.ask(prefix)
    ways[FURTHER]()
    for _ in range(rounds):
        for name, way in ways.items():
            gc.collect()
            start = clock()
            way()
            found[name].append(clock() - start)
    return found


def extra_memory(reader: Reader) -> dict[str, float]:
    """Return peak MiB above the loaded model of each candidate, in a forked process each."""
    prefix = reader.prefix()
    found = {name: peak_memory(lambda way=way: way(reader)) for name, way in CANDIDATES.items()}
    found[FURTHER] = peak_memory(lambda: reader.ask(prefix))
    return found


def memory_in_child(shape: str) -> dict[str, float]:
    """Run `extra_memory` in a fresh process of one thread, which alone can be forked safely."""
    command = [sys.executable, __file__, "--shape", shape, "--memory-only"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring memory failed:\n{done.stderr}")
    return json.loads(done.stdout)


def ratios(times: dict[str, list[float]], memory: dict[str, float]) -> dict[str, Any]:
    """Return the ratios that matter: median, least and largest of the rounds."""

    def by_round(top: str, bottom: str) -> dict[str, float]:
        values = [a / b for a, b in zip(times[top], times[bottom], strict=True)]
        return {"median": statistics.median(values), "least": min(values), "largest": max(values)}

    return {
        "time: published / tap": by_round("published", "tap"),
        "time: tap / plain": by_round("tap", "plain"),
        "time: first / further phrase": by_round("first phrase", FURTHER),
        "memory: published / tap": memory["published"] / memory["tap"],
    }


def measure(shape: str, rounds: int, threads: int) -> dict[str, Any]:
    """Measure one shape, memory first."""
    memory = memory_in_child(shape)
    torch.set_num_threads(threads)
    with torch.no_grad():
        reader = Reader(SHAPES[shape])
        found = differences(reader)
        times = seconds(reader, rounds, threads)
    return {
        "shape": asdict(SHAPES[shape]),
        "threads": threads,
        "clock": "processor" if threads == 1 else "wall",
        "seconds": times,
        "extra_mib": memory,
        "differences": found,
        "ratios": ratios(times, memory),
        "versions": installed_versions(),
        "commit": code_commit(),
    }


def table(results: dict[str, Any]) -> str:
    """Return the figures as text."""
    shape = results["shape"]
    lines = [
        f"{shape['layers']} layers, {shape['width']} wide, {shape['heads']} heads, "
        f"{shape['tokens']} tokens, {shape['image']} of them image, {shape['phrase']} of the "
        f"phrase; {results['threads']} thread(s), {results['clock']} time",
        f"{'':16} {'seconds':>9} {'spread':>17} {'extra MiB':>10}",
    ]
    for name, values in results["seconds"].items():
        spread = f"{min(values):.3f} to {max(values):.3f}"
        lines.append(
            f"{name:16} {statistics.median(values):9.3f} {spread:>17} "
            f"{results['extra_mib'][name]:10.1f}"
        )
    for name, ratio in results["ratios"].items():
        told = (
            f"{ratio['median']:.3f} ({ratio['least']:.3f} to {ratio['largest']:.3f})"
            if isinstance(ratio, dict)
            else f"{ratio:.1f}"
        )
        lines.append(f"{name:30} {told}")
    lines += [
        f"difference, {name:28} {value:.2e}" for name, value in results["differences"].items()
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a tiny shape, one round")
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.memory_only:
        torch.set_num_threads(1)
        with torch.no_grad():
            print(json.dumps(extra_memory(Reader(SHAPES[options.shape]))))
        return
    shape, rounds = ("quick", 1) if options.quick else (options.shape, options.rounds)
    results = measure(shape, rounds, options.threads)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=2))
    print(table(results))


if __name__ == "__main__":
    main()
