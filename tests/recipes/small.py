"""A tiny world for recipes: a host, an eye and data on disk, as a user would have them."""

from __future__ import annotations

import json
from pathlib import Path

from chiasm.heads.sam import save_sam
from tests.tiny import TINY_HOSTS, picture
from tests.tiny_eyes import tiny_encoder
from tests.tiny_sams import tiny_sam

SCENARIOS = (
    "vision-finetuning",
    "language-adaptation",
    "fusion-learning",
    "progressive",
    "medical",
    "efficient",
)


def furnish(folder: Path, family: str = "qwen2_5_vl") -> Path:
    """Write `host/`, `eye/` and `data/` (7 questions for training, 3 for validation)."""
    TINY_HOSTS[family]().save(folder / "host")
    tiny_encoder("dinov2").save(folder / "eye")
    write_questions(folder / "data" / "train.json", 7)
    write_questions(folder / "data" / "val.json", 3)
    return folder


def write_questions(file: Path, count: int, first: int = 0) -> None:
    """Write questions on pictures of different sizes, in the form image_path + conversations."""
    (file.parent / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(first, first + count):
        name = f"images/{file.stem}-{index}.png"
        picture(43 + 4 * (index % 3), 61, index).save(file.parent / name)
        records.append(
            {
                "image_path": name,
                "conversations": [
                    {"role": "user", "content": "What is it?"},
                    {"role": "assistant", "content": f"thing {index % 5}"},
                ],
            }
        )
    file.write_text(json.dumps(records), encoding="utf-8")


def tiny_overrides(folder: Path, stages: int = 1, steps: int = 2) -> list[str]:
    """What brings a scenario recipe down to the size of a test, and nothing else."""
    shorter = [
        assignment
        for stage in range(stages)
        for assignment in (
            f"training.stages.{stage}.epochs=null",
            f"training.stages.{stage}.steps={steps}",
        )
    ]
    return [
        f"host.path={folder / 'host'}",
        f"encoders.dinov2.path={folder / 'eye'}",
        f"data.train.0.path={folder / 'data' / 'train.json'}",
        f"data.validation.0.path={folder / 'data' / 'val.json'}",
        "fusion.width=31",
        "training.batch_size=2",
        *shorter,
    ]


def tiny_pointing(home: Path, folder: Path, steps: int = 2) -> list[str]:
    """What brings `tiny-grounding` down to the host of `home` and a tiny segmenter in `folder`."""
    sam = tiny_sam()
    save_sam(sam.model, sam.transform, folder / "segmenter")
    return [
        f"host.path={home / 'host'}",
        f"grounding.refiner.sam.path={folder}",
        "grounding.widths=[5, 7]",
        "grounding.least=16",
        "training.batch_size=2",
        "training.workers=0",
        "training.stages.0.warmup=0",
        f"training.stages.0.steps={steps}",
        "data.train.0.count=7",
        "data.validation.0.count=3",
        "training.evaluate_every=2",
        "training.checkpoint_every=2",
    ]


def tiny_strategy(name: str) -> list[str]:
    """What brings a strategy for videos down to the size of a test, and nothing else."""
    more = {
        "video-domain-aware": ["training.stages.1.steps=3", "training.stages.1.warmup=0"],
        "video-multi-task": [
            "video.caption_head={width: 26, heads: 2, layers: 1, longest: 64}",
            "data.train.1.count=11",
            "data.validation.1.count=3",
        ],
        "video-curriculum": ["video.curriculum=4"],
        "video-progressive-merging": ["video.curriculum=4"],
    }
    return [
        "video.frames={cell: 32, stem: 5, channels: [7], width: 22}",
        "video.sampling={kind: uniform, count: 7}",
        "video.reader={attention: hierarchical, options: {}, depth: 1, heads: 2}",
        "video.answer_head={depth: 1, heads: 2}",
        "video.action_head={hidden: 13, borders: [8], depth: 1}",
        "data.train.0.count=11",
        "data.validation.0.count=3",
        "training.batch_size=2",
        "training.evaluate_every=2",
        "training.checkpoint_every=4",
        "training.stages.0.steps=4",
        "training.stages.0.warmup=0",
        *more.get(name, []),
    ]
