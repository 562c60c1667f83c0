"""Where the time of one answer goes, stage by stage, and how much memory it takes."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, cast

import torch
from torch import nn

from chiasm.core.errors import InputError
from chiasm.core.protocols import Fused
from chiasm.core.samples import Sample, Turn
from chiasm.encoders.protocol import Encoder
from chiasm.inference.pictures import read_picture
from chiasm.inference.responding import Answering, Sight, splice
from chiasm.inference.senses import Sensing, check_sense
from chiasm.models.probes import probing

PREPARE, HOST, FUSE, PREFILL, DECODE, TOTAL = (
    "prepare",
    "encode host",
    "fuse",
    "prefill",
    "decode",
    "total",
)


@dataclass(frozen=True)
class Timing:
    """Milliseconds over the repeats."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Benchmark:
    """Latency and memory of one question about one image.

    Attributes:
        device: Where the model ran.
        dtype: Type of the language model's weights.
        threads: CPU threads that torch used.
        image: (height, width) in pixels.
        visual_tokens: Tokens that stand for the image.
        prompt_tokens: Tokens read, visual ones included.
        new_tokens: Tokens written; the end is not heeded, so that each repeat writes as many.
        repeats: Runs that count.
        warm_up: Runs before them that do not.
        stages: By name: `prepare` (file to tensors on the device), `encode host`, `encode NAME` for
            each extra encoder, `fuse`, `prefill` (splicing, reading, the first token), `decode`
            (the other tokens), `total`.
        tokens_per_second: While decoding; the median.
        peak_memory: Bytes.
        memory_of: What `peak_memory` is of.
    """

    device: str
    dtype: str
    threads: int
    image: tuple[int, int]
    visual_tokens: int
    prompt_tokens: int
    new_tokens: int
    repeats: int
    warm_up: int
    stages: dict[str, Timing]
    tokens_per_second: float
    peak_memory: int | None
    memory_of: str

    def document(self) -> dict[str, Any]:
        """Return everything in plain values, for JSON; times in milliseconds."""
        plain = {name: value for name, value in vars(self).items() if name != "stages"}
        stages = {name: dict(vars(timing)) for name, timing in self.stages.items()}
        return {**plain, "image": list(self.image), "milliseconds": stages}


@dataclass(frozen=True)
class _Run:
    seconds: dict[str, float]
    tokens: list[int]
    visual_tokens: int
    prompt_tokens: int


def benchmark(
    model: Sensing,
    image: object,
    question: str,
    *,
    repeats: int = 5,
    warm_up: int = 2,
    new_tokens: int = 32,
) -> Benchmark:
    """Time one question about one image.

    Args:
        model: A model with the senses `ask` and `image`.
        image: As for `Session.set`; a path is read anew in each run.
        question: The question.
        repeats: Runs that count, at least 1.
        warm_up: Runs before them that do not.
        new_tokens: Tokens to write, at least 2: the first one belongs to the prefill.

    Raises:
        InputError: The model lacks a sense, or a number is out of range.
    """
    for sense in ("ask", "image"):
        check_sense(model, sense)
    if "reconstruction" in model.senses:
        raise InputError(
            "the benchmark times one image and one answer, and this model reads an image together "
            "with a reconstruction; benchmark a model of the family dual_encoder or grounding"
        )
    if repeats < 1 or warm_up < 0 or new_tokens < 2:
        raise InputError(
            f"{repeats} repeats, {warm_up} for warm-up, {new_tokens} new tokens; allowed: at least "
            "1, 0 and 2"
        )
    answering = cast("Answering", model)
    device = answering.host.device
    size = read_picture(image).size
    with probing(cast("nn.Module", model)):
        for _ in range(warm_up):
            run_once(answering, image, question, new_tokens)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        runs = [run_once(answering, image, question, new_tokens) for _ in range(repeats)]
    memory, memory_of = _peak_memory(device)
    speeds = [(len(run.tokens) - 1) / run.seconds[DECODE] for run in runs]
    return Benchmark(
        device=str(device),
        dtype=str(answering.host.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        image=(size[1], size[0]),
        visual_tokens=runs[0].visual_tokens,
        prompt_tokens=runs[0].prompt_tokens,
        new_tokens=len(runs[0].tokens),
        repeats=repeats,
        warm_up=warm_up,
        stages={stage: _timing([run.seconds[stage] for run in runs]) for stage in runs[0].seconds},
        tokens_per_second=statistics.median(speeds),
        peak_memory=memory,
        memory_of=memory_of,
    )


def run_once(model: Answering, image: object, question: str, new_tokens: int) -> _Run:
    """Answer once, with a look at the clock after each stage; the steps are those of `respond`."""
    host = model.host
    clock = _Clock(host.device)
    picture = read_picture(image)
    sample = Sample("benchmark", (Turn("user", (0, question)),), (picture,))
    batch = model.collator.collate([sample], generation=True).to(host.device)
    clock.tick(PREPARE)
    seen = host.encode(batch.host_images, batch.geometries)
    clock.tick(HOST)
    fused = Fused(tokens=seen.tokens, named={})
    if model.fusion is not None:
        extra = {}
        for name, module in model.encoders.items():
            encoder = cast("Encoder", module)
            extra[name] = encoder.encode(batch.encoder_images[name], batch.geometries)
            clock.tick(f"encode {name}")
        fused = model.fusion.fuse(seen.tokens, extra)
        clock.tick(FUSE)
    spliced = splice(model, batch, Sight(fused, seen.extras))
    tokens: list[int] = []

    def follow(row: list[int]) -> None:
        if not tokens:
            clock.tick(PREFILL)
        tokens.extend(row)

    host.generate(spliced, max_new_tokens=new_tokens, min_new_tokens=new_tokens, on_tokens=follow)
    clock.tick(DECODE)
    return _Run(
        seconds={**clock.seconds, TOTAL: sum(clock.seconds.values())},
        tokens=tokens,
        visual_tokens=int(fused.tokens.mask.sum()),
        prompt_tokens=int(spliced.attention_mask.sum()),
    )


class _Clock:
    """Time since the last tick, by stage; waits for the device first."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._last = self._now()

    def tick(self, stage: str) -> None:
        now = self._now()
        self.seconds[stage] = now - self._last
        self._last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return perf_counter()


def _timing(seconds: Sequence[float]) -> Timing:
    values = [1000 * value for value in seconds]
    return Timing(statistics.median(values), min(values), max(values))


def _peak_memory(device: torch.device) -> tuple[int | None, str]:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "allocated on the device"
    if sys.platform == "win32":
        return None, "not known on this system"
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kibibytes everywhere but on macOS.
    scale = 1 if sys.platform == "darwin" else 1024
    return peak * scale, "resident in the process, loading included"
