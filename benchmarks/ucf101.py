"""Real features in time: which action a clip shows, and where actions lie in joined clips.

    python benchmarks/ucf101.py --data ucf101_15cls_vgg16_rp128_train.npz --output runs/ucf101

The file holds 25 features of width 128 for each of 1,442 clips of 15 actions. Its clips stand in
the order of their names, and those of one recording are neighbours: of each action one run of
neighbours is held out, and as many as a recording may hold are left out beside it. A seed is a
split and a start of the weights.

Classification: a reader over the 25 frames and the head of labels, beside logistic regression on
the clips' mean and on all their numbers. Detection: pieces of 8 to 25 frames of clips of the first
ten actions, joined, with pieces of clips of the last five, which nobody names, before, between and
after them; held-out clips make the videos that are measured. The baselines are logistic regression
on the mean of sliding windows, and on that and what lies around them, with the decoder's own
suppression. What can be chosen of the baselines is chosen on a part of training. Windows are
learned from as many joined videos as are measured, the detector from a new one in each place of a
batch: both are made of the same clips. The mean of training is taken off all features.

Joints are abrupt, which real videos are not: figures of borders flatter every method alike.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import io
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from benchmarks.ucf101_probes import VIEWS, Found, fit_windows, probe_clips
from chiasm.core.batch import Batch
from chiasm.core.outputs import Outputs
from chiasm.core.protocols import Objective
from chiasm.core.samples import Sample, Turn
from chiasm.data.feature_files import FeatureSet, load_feature_set, split_by_runs
from chiasm.data.joining import JoinedVideo, JoiningConfig, join_clips
from chiasm.data.video_collate import VideoCollator
from chiasm.data.vocabulary import Vocabulary
from chiasm.encoders.video_features import VideoFeaturesConfig
from chiasm.evaluation.provenance import code_commit, installed_versions
from chiasm.heads.video_labels import VideoLabelHeadConfig
from chiasm.layers.reader import ReaderConfig
from chiasm.metrics.temporal import (
    ACTIVITYNET_THRESHOLDS,
    THUMOS_THRESHOLDS,
    temporal_average_precision,
)
from chiasm.models.long_video import LongVideo
from chiasm.models.probes import probing
from chiasm.models.video_probes import build_probes_for
from chiasm.models.video_reading import VideoReading
from chiasm.objectives.answers import Answers
from chiasm.recipes.build import build_objective
from chiasm.recipes.objective_choice import ObjectiveChoice
from chiasm.recipes.video_choice import VideoChoice
from chiasm.recipes.video_models import build_video
from chiasm.training.loop import Trainer
from chiasm.training.settings import TrainingSettings

HELD_OUT, LONGEST_GROUP = 0.2, 7
CLASSES, NAMED = 15, 10
RATE = 5.0
LABELS = tuple(f"action {number}" for number in range(1, CLASSES + 1))
QUESTION = "which action is this"
JOINING = JoiningConfig(rate=RATE)
PERIODS = (1.0, 5.0, 20.0)

DETECTOR = {
    "features": {"features": 128, "width": 64, "dropout": 0.3},
    "feature_rate": RATE,
    "reader": {"options": {"window": 24, "global_tokens": 0}, "depth": 1, "periods": PERIODS},
    "answer_head": None,
    "action_head": {"borders": [4, 8], "hidden": 64, "depth": 1},
    "actions": LABELS[:NAMED],
    "domains": (),
}


class Classifier(nn.Module):
    """Features are projected, read, and labelled: parts of the project, put together."""

    new_parts = frozenset({"reading", "head"})
    identity: Mapping[str, Any] = {"reading": {"name": "random", "weights": "random"}}

    def __init__(self) -> None:
        super().__init__()
        features = VideoFeaturesConfig(features=128, width=128, dropout=0.5).build()
        reader = ReaderConfig(
            attention="dense", options={}, depth=1, expansion=1, periods=(5.0, 10.0, 20.0)
        )
        self.reading = VideoReading(
            encoder=features, compression=None, reader=reader.build(width=128)
        )
        self.head = VideoLabelHeadConfig().build(width=128, labels=CLASSES)
        self.collator = VideoCollator(
            Vocabulary(QUESTION.split()), answers=LABELS, feature_rate=RATE
        )

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {"reading": self.reading, "head": self.head}

    def forward(self, batch: Batch) -> Outputs:
        assert batch.videos is not None
        tokens = self.reading.encode(batch.videos)
        states = self.reading.think(tokens)
        scores = self.head.predict(tokens.features, states.features, tokens.mask)
        return Outputs(named={"answers": scores})

    def probe(self) -> dict[str, Tensor]:
        samples = build_probes_for(self.reading.encoder, None)
        with probing(self):
            return {
                one.identifier: self(self.collator([one])).named["answers"].float()
                for one in samples
            }


ModelT = TypeVar("ModelT", Classifier, LongVideo)


@dataclasses.dataclass(frozen=True)
class Clips:
    """Clips to learn from: some frames of each, drawn by the index."""

    clips: FeatureSet
    count: int
    seed: int
    frames: int = 12

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        random = np.random.default_rng([self.seed, index])
        clip = int(random.integers(len(self.clips)))
        total = self.clips.features.shape[1]
        kept = np.sort(random.choice(total, self.frames, replace=False))
        return as_question(self.clips, clip, self.clips.features[clip, kept])


@dataclasses.dataclass(frozen=True)
class Joined:
    """Joined videos to learn from, made once."""

    videos: Sequence[JoinedVideo]

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Sample:
        video = self.videos[index]
        return Sample(str(index), (), video=video.features, segments=video.segments)


def as_question(clips: FeatureSet, clip: int, features: NDArray[np.float32]) -> Sample:
    """Ask which action a clip shows."""
    assert clips.labels is not None
    answer = LABELS[clips.labels[clip] - 1]
    turns = (Turn("user", (QUESTION,)), Turn("assistant", (answer,), supervised=True))
    return Sample(str(clip), turns, video=features)


def train(
    model: ModelT, objective: Objective, data: Clips | Joined, seed: int, folder: Path, steps: int,
    learning_rate: float, **settings: Any,
) -> ModelT:  # fmt: skip
    """Train a model with the project's trainer; return it with its averaged weights."""
    # What a broken-off run has left behind.
    shutil.rmtree(folder, ignore_errors=True)
    stage = {
        "name": "features",
        "steps": steps,
        "train": tuple(model.parts),
        "learning_rate": learning_rate,
        "warmup": 0.1,
    }
    trainer = Trainer(
        model=model,
        objective=objective,
        dataset=data,
        collate=model.collator,
        settings=TrainingSettings(
            stages=[stage], seed=seed, betas=(0.9, 0.98), ema=0.97, **settings
        ),
        output=folder,
        console=Console(file=io.StringIO()),
    )
    trainer.train()
    assert trainer.average is not None
    with trainer.average.applied(model):
        return copy.deepcopy(model)


def classify(
    parts: dict[str, FeatureSet], seed: int, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Return the accuracies of all ways on held-out clips."""
    inner = split_by_runs(parts["train"], HELD_OUT, LONGEST_GROUP, seed + 100)
    found: dict[str, Any] = {}
    for view in VIEWS:
        found[f"probe of {view}"], prior = probe_clips(parts, inner, view, CLASSES)
        found[f"prior of {view}"] = prior
    held = parts["held_out"]
    assert held.labels is not None
    logs, single = [], []
    for member in range(options.members):
        torch.manual_seed(seed * 100 + member)
        model = train(
            Classifier(),
            Answers(label_smoothing=0.1),
            Clips(parts["train"], options.clip_steps * 64, seed * 100 + member),
            seed * 100 + member,
            folder / f"classifier-{member}",
            options.clip_steps,
            3e-3,
            batch_size=64,
            weight_decay=0.1,
        )
        samples = [as_question(held, clip, held.features[clip]) for clip in range(len(held))]
        with probing(model):
            logs.append(model(model.collator(samples)).named["answers"].log_softmax(-1).numpy())
        single.append(accuracy(logs[-1], held.labels))
    found |= {"reader": mean(single), "reader, each": single}
    found[f"{options.members} readers"] = accuracy(np.mean(logs, 0), held.labels)
    return found


def accuracy(scores: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """Return the share of clips whose best score is right."""
    return float((scores.argmax(1) == labels - 1).mean())


def detect(
    parts: dict[str, FeatureSet], seed: int, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Return the average precision of all ways on videos of held-out clips."""
    inner = split_by_runs(parts["train"], HELD_OUT, LONGEST_GROUP, seed + 100)
    test = join(parts["held_out"], options.videos, seed)
    found: dict[str, Any] = {"actions": sum(len(video.segments) for video in test)}
    for name, around in (("windows", False), ("windows and surroundings", True)):
        tried = {}
        for prior in (1e-3, 1e-2, 1e-1, 1.0):
            learned = join(inner["train"], options.videos, seed + 1)
            asked = join(inner["held_out"], options.videos, seed)
            probe = fit_windows(learned, LABELS[:NAMED], RATE, prior, around)
            tried[prior] = precision(probe.find(asked, RATE), asked)["thumos"]
        best = max(tried, key=tried.__getitem__)
        learned = join(parts["train"], options.videos, seed + 1)
        probe = fit_windows(learned, LABELS[:NAMED], RATE, best, around)
        found[name] = {**precision(probe.find(test, RATE), test), "prior": best}
    torch.manual_seed(seed)
    terms = ObjectiveChoice(actions={"classes": 1.0, "overlap": 1.0, "centres": 1.0})
    model = train(
        build_video(VideoChoice.model_validate(DETECTOR), terms),
        build_objective(terms),
        Joined(join(parts["train"], options.video_steps * 8, seed + 2)),
        seed,
        folder / "detector",
        options.video_steps,
        2e-3,
        batch_size=8,
        weight_decay=0.05,
    )
    found["detector"] = precision(watch(model, test), test)
    return found


def join(clips: FeatureSet, count: int, seed: int) -> list[JoinedVideo]:
    """Join clips of the named actions, with the others as background."""
    assert clips.labels is not None
    named = clips.take(np.flatnonzero(clips.labels <= NAMED), {})
    rest = clips.take(np.flatnonzero(clips.labels > NAMED), {})
    names = dict(enumerate(LABELS, start=1))
    return list(join_clips(named, rest, names, JOINING, count=count, seed=seed))


def watch(model: LongVideo, videos: Sequence[JoinedVideo]) -> Found:
    """Return what the detector finds."""
    samples = Joined(videos)
    found: Found = {}
    assert model.decoder is not None
    with probing(model):
        for start in range(0, len(samples), 16):
            places = range(start, min(start + 16, len(samples)))
            batch = model.collator([samples[place] for place in places])
            assert batch.videos is not None
            decoded = model.decoder.decode(model(batch).named, batch.videos.durations)
            for place, one in zip(places, decoded, strict=True):
                found[str(place)] = [segment.to_plain() for segment in one.segments]
    return found


def precision(found: Found, videos: Sequence[JoinedVideo]) -> dict[str, float]:
    """Return mean average precision in percent of both protocols, and at some overlaps."""
    truth = {
        str(number): [{"label": s.label, "segment": [s.start, s.end]} for s in video.segments]
        for number, video in enumerate(videos)
    }
    thumos = temporal_average_precision(found, truth, THUMOS_THRESHOLDS)
    activitynet = temporal_average_precision(found, truth, ACTIVITYNET_THRESHOLDS)
    each = dict(zip(activitynet.thresholds, activitynet.per_threshold, strict=True))
    return {
        "thumos": thumos.mean,
        "activitynet": activitynet.mean,
        **{f"at {level}": each[level] for level in (0.5, 0.75, 0.95)},
    }


WAYS = {"classification": classify, "detection": detect}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the file of features")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--members", type=int, default=3, help="classifiers a seed")
    parser.add_argument("--clip-steps", type=int, default=200)
    parser.add_argument("--video-steps", type=int, default=300)
    parser.add_argument("--videos", type=int, default=90, help="joined videos measured")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    clips = load_feature_set(options.data)
    for seed in options.seeds:
        parts = split_by_runs(clips, HELD_OUT, LONGEST_GROUP, seed)
        middle = parts["train"].features.mean((0, 1))
        parts = {
            name: dataclasses.replace(part, features=part.features - middle)
            for name, part in parts.items()
        }
        folder = options.output / f"seed-{seed}"
        for name in options.only:
            way = WAYS[name]
            path = options.output / f"{name}-{seed}.json"
            if path.exists():
                continue
            started = time.monotonic()
            found = way(parts, seed, folder, options)
            told = {"seed": seed, "clips": {n: len(p) for n, p in parts.items()}, "found": found,
                    "seconds": time.monotonic() - started, "commit": code_commit(),
                    "versions": installed_versions()}  # fmt: skip
            path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
            sys.stderr.write(f"{path.name}: {told['seconds']:.0f} s\n")
    if list(options.only) == list(WAYS):
        sys.stdout.write(tables(options.output, options.seeds))


def tables(output: Path, seeds: Sequence[int]) -> str:
    """Return the figures of all seeds as Markdown: mean and standard deviation, in percent."""

    def read(name: str) -> list[dict[str, Any]]:
        texts = [(output / f"{name}-{seed}.json").read_text("utf-8") for seed in seeds]
        return [json.loads(text)["found"] for text in texts]

    def cell(values: Sequence[float]) -> str:
        spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
        return f"{100 * mean(values):.1f}{spread}"

    clips, videos = read("classification"), read("detection")
    ways = [name for name, value in clips[0].items() if isinstance(value, float)]
    lines = ["| held-out clips | accuracy | each seed |", "|---|---|---|"]
    for way in (name for name in ways if not name.startswith("prior")):
        own = [found[way] for found in clips]
        lines.append(f"| {way} | {cell(own)} | {', '.join(f'{100 * v:.1f}' for v in own)} |")
    columns = ("thumos", "activitynet", "at 0.5", "at 0.75", "at 0.95")
    lines += ["", f"| joined videos | {' | '.join(columns)} |", "|---" * 6 + "|"]
    for way in (name for name, value in videos[0].items() if isinstance(value, dict)):
        cells = [cell([found[way][column] for found in videos]) for column in columns]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    actions = ", ".join(str(found["actions"]) for found in videos)
    return "\n".join([*lines, "", f"actions in the joined videos of each seed: {actions}", ""])


if __name__ == "__main__":
    main()
