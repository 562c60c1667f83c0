"""What merging saves and costs a model of long videos, and what it still knows much later.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/long_video.py merging runs/tiny-video
    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/long_video.py actions runs/tiny-video
    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/long_video.py memory runs/tiny-video-memory

`merging` asks the same weights about the same test videos with other compressions: accuracy for
each seed of test videos, the time of encoding and reading (of the processor, so that a shared
machine does not count; every candidate in turn in each round) and the most that PyTorch's tensors
hold meanwhile. `actions` gives the mean average precision of what happens when. `memory` streams
videos of 2,112 frames clip by clip and asks at the end what blinked at the start; the guess is the
most frequent answer to each question.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from chiasm.compression import COMPRESSIONS
from chiasm.compression.protocol import Compression
from chiasm.core.batch import Batch, VideoBatch
from chiasm.core.samples import Sample
from chiasm.data.video import open_video
from chiasm.data.world.motion_worlds import MotionDataset
from chiasm.evaluation.peak_memory import peak_memory
from chiasm.evaluation.provenance import code_commit, installed_versions
from chiasm.models.long_video import LongVideo
from chiasm.models.video_reading import Watched
from chiasm.recipes.loading import load_run
from chiasm.recipes.video_models import video_quality

MOTION = {"motion": {"kind": "features"}, "motion_weight": 1.0, "saliency_weight": 0.0}
QUESTIONS = 4
METHODS = ("guided", "similarity", "uniform")
TARGETS = {
    "accuracy at 50 %": "within 1 point of no merging",
    "speed-up of encode and read at 50 %": ">= 1.4",
    "accuracy at 25 %": "guided above similarity and uniform",
    "actions": "average mAP (0.3 to 0.7) >= 0.70",
    "memory": ">= 85 % about a moment 2,000 frames ago",
}


def compression(method: str, ratio: float) -> Compression | None:
    """Build a compression of the table; None at ratio 1."""
    if ratio == 1:
        return None
    if method == "guided":
        return COMPRESSIONS[method](importance=MOTION, budget={"ratio": ratio}).build()  # type: ignore[call-arg]
    return COMPRESSIONS[method](ratio=ratio).build()  # type: ignore[call-arg]


def samples_of(world: str, seed: int, count: int) -> list[Sample]:
    """Return test videos of a world with several questions each."""
    dataset = MotionDataset(
        world=world, split="test", seed=seed, count=count, questions_per_video=QUESTIONS
    )
    return [dataset[index] for index in range(count)]


def measure_merging(
    model: LongVideo, world: str, seeds: Sequence[int], count: int, rounds: int
) -> Any:
    """Return accuracy, time and memory by method and ratio."""
    ways = [("none", 1.0), *((method, ratio) for ratio in (0.5, 0.25) for method in METHODS)]
    accuracy: dict[str, list[float]] = {}
    for seed in seeds:
        samples = samples_of(world, seed, count)
        for method, ratio in ways:
            model.reading.compression = compression(method, ratio)
            numbers = video_quality(model, samples)
            accuracy.setdefault(f"{method} {ratio:g}", []).append(numbers["accuracy"])
    return {"accuracy": accuracy, **_costs(model, world, ways, rounds)}


def _costs(
    model: LongVideo, world: str, ways: Sequence[tuple[str, float]], rounds: int
) -> dict[str, Any]:
    """Return seconds a round and MiB of encoding and reading eight videos, by way."""
    batch = model.collator(samples_of(world, 0, 8))
    videos = batch.videos
    assert videos is not None
    built = {f"{method} {ratio:g}": compression(method, ratio) for method, ratio in ways}
    seconds: dict[str, list[float]] = {name: [] for name in built}
    parts: dict[str, list[list[float]]] = {name: [] for name in built}
    for turn in range(rounds + 1):
        for name, way in built.items():
            model.reading.compression = way
            with torch.inference_mode():
                start = time.process_time()
                tokens = model.reading.encode(videos)
                middle = time.process_time()
                model.reading.think(tokens)
                end = time.process_time()
            if turn:
                seconds[name].append(end - start)
                parts[name].append([middle - start, end - middle])
    peaks = {}
    for name, way in built.items():
        model.reading.compression = way
        peaks[name] = _allocated(_reading(model, videos))
    plain = seconds["none 1"]
    return {
        "seconds": seconds,
        "encode, read": {
            name: [statistics.median(column) for column in zip(*rows, strict=True)]
            for name, rows in parts.items()
        },
        "speed-up": {
            name: statistics.median(a / b for a, b in zip(plain, own, strict=True))
            for name, own in seconds.items()
        },
        "peak MiB": peaks,
    }


def _allocated(way: Callable[[], Any]) -> float:
    """Return by how many MiB a second run of `way` raises what PyTorch holds.

    Resident memory moves with where the heap has room, which is more than what merging saves here.
    """
    way()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        way()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    told = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    held = [event["args"]["Total Allocated"] for event in told]
    return float(max(held) - (held[0] - told[0]["args"]["Bytes"])) / 2**20


def _reading(model: LongVideo, videos: VideoBatch) -> Callable[[], Any]:
    def read() -> Any:
        with torch.inference_mode():
            return model.reading.read(videos)

    return read


def measure_actions(model: LongVideo, seeds: Sequence[int], count: int) -> Any:
    """Return all numbers of the model on test videos, by seed."""
    return {
        f"seed {seed}": dict(video_quality(model, samples_of("motion", seed, count)))
        for seed in seeds
    }


def stream(model: LongVideo, sample: Sample, most: int | None = None) -> tuple[Watched, list[int]]:
    """Watch a video clip by clip.

    Args:
        model: The model.
        sample: A sample with a video.
        most: Stop after so many frames of the model's sampling; None for all.

    Returns:
        What is kept at the end, and how many numbers were kept after each clip.
    """
    assert sample.video is not None
    video = open_video(sample.video, size=model.collator.size)
    chosen = model.collator.sampling.choose(video)[:most]
    watched, kept = model.reading.begin(), []
    with torch.inference_mode():
        for start in range(0, len(chosen), model.reading.clip):
            clip = video.read(chosen[start : start + model.reading.clip])
            frames, times = torch.from_numpy(clip.frames), torch.from_numpy(clip.times).float()
            watched = model.reading.watch(frames, times, watched)[1]
            kept.append(_numbers(watched))
    return watched, kept


def _numbers(watched: Watched) -> int:
    memory = watched.memory
    assert memory is not None and watched.past is not None
    own = (memory.features, memory.cells, memory.sizes, memory.sources, memory.mask, memory.times)
    layers = [tensor for layer in watched.state for tensor in layer if isinstance(tensor, Tensor)]
    return sum(tensor.numel() for tensor in (*own, watched.past, *layers))


def _questions(model: LongVideo, sample: Sample) -> tuple[Batch, VideoBatch]:
    """Return a sample's questions in a batch whose video is a stand-in that nobody looks at."""
    height, width = model.collator.size or (64, 64)
    batch = model.collator(
        [replace(sample, video=torch.zeros(9, height, width, 3, dtype=torch.uint8).numpy())]
    )
    assert batch.videos is not None
    return batch, batch.videos


def measure_memory(model: LongVideo, seeds: Sequence[int], count: int, lengths: Any) -> Any:
    """Return accuracy about a moment long ago, what is kept, and time and memory by length."""
    found: dict[str, Any] = {}
    for seed in seeds:
        right: list[bool] = []
        truth: list[tuple[str, int]] = []
        memory, kept = None, list[int]()
        for sample in samples_of("motion_memory", seed, count):
            watched, kept = stream(model, sample)
            memory = watched.memory
            batch, videos = _questions(model, sample)
            assert memory is not None
            with torch.inference_mode():
                scores = model.answer(memory, batch, videos)
            right += (scores.argmax(-1) == videos.answers).tolist()
            truth += zip(sample.truth["kinds"], videos.answers.tolist(), strict=True)
        assert memory is not None
        guesses = [Counter(a for k, a in truth if k == kind) for kind in {k for k, _ in truth}]
        found[f"seed {seed}"] = {
            "accuracy": statistics.mean(right),
            "questions": len(right),
            "guess": sum(guess.most_common(1)[0][1] for guess in guesses) / len(truth),
            "states": memory.mask.sum().item(),
            "unmerged": int(memory.sizes.sum()),
            "numbers kept after each clip": kept,
        }
    return {**found, "by length": _by_length(model, lengths)}


def _by_length(model: LongVideo, lengths: Sequence[int]) -> dict[str, Any]:
    """Return seconds and MiB of streaming the first frames of one video."""
    (sample,) = samples_of("motion_memory", 0, 1)
    found = {}
    for length in lengths:
        start = time.process_time()
        stream(model, sample, length)
        found[f"{length} sampled frames"] = {
            "seconds": time.process_time() - start,
            "peak MiB": peak_memory(lambda length=length: stream(model, sample, length)),  # type: ignore[misc]
        }
    return found


def table(results: dict[str, Any], indent: str = "") -> str:
    """Return figures as text."""
    lines = []
    for name, value in results.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", table(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {_written(value)}")
    return "\n".join(lines)


def _written(value: Any) -> str:
    if isinstance(value, list) and len(value) > 8:
        return f"{_written(value[:3])} ... {_written(value[-3:])}"
    if isinstance(value, list):
        return ", ".join(map(_written, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("merging", "actions", "memory"))
    parser.add_argument("run", help="a run of the family long_video")
    parser.add_argument("--world", default="motion", help="of `merging`: what is asked about")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of test videos")
    parser.add_argument("--videos", type=int, default=100, help="for each seed")
    parser.add_argument("--rounds", type=int, default=7, help="of timing")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512, 1056])
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = load_run(options.run)
    if not isinstance(model, LongVideo):
        parser.error(f"{options.run} is a {type(model).__name__}, no model of long videos")
    if options.what == "merging":
        results = measure_merging(
            model, options.world, options.seeds, options.videos, options.rounds
        )
    elif options.what == "actions":
        results = measure_actions(model, options.seeds, options.videos)
    else:
        results = measure_memory(model, options.seeds, options.videos, options.lengths)
    told = {"versions": installed_versions(), "commit": code_commit(), "targets": TARGETS}
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({**results, **told}, indent=2))
    print(table(results))


if __name__ == "__main__":
    main()
