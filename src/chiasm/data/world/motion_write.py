"""A moving world as ordinary files: videos and annotations in the layout users bring.

    OUTPUT/
      world.json                          what was made: name, seed, counts, configuration
      training/                           and validation, test, composition
        videos/train-0.mp4                H.264, the world's own frame rate
        annotations/action_detection.json {"video_id", "domain", "actions": [{start, end, label}]}
        annotations/video_qa.json         {"video_id", "domain", "qa_pairs": [{question, answer}]}
        annotations/video_captioning.json {"video_id", "domain", "captions": ["..."]}

Times are seconds. A question holds its `kind` and `seen`, the seconds that hold its answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from chiasm.data.video_writing import write_video
from chiasm.data.world.motion_questions import tell
from chiasm.data.world.motion_render import MotionFrames
from chiasm.data.world.motion_sampling import MotionConfig
from chiasm.data.world.motion_worlds import MotionItem, draw_motion

FOLDERS = {
    "train": "training",
    "validation": "validation",
    "test": "test",
    "composition": "composition",
}
"""Split -> the folder that holds it."""

QUALITY = 12
"""Rate factor of the videos: small glows and colours stay what they are."""

Json = dict[str, Any]


def write_motion_split(
    folder: Path, config: MotionConfig, split: str, seed: int, count: int, questions: int
) -> Iterator[int]:
    """Write the files of one split, yielding after each video."""
    place = folder / FOLDERS[split]
    (place / "videos").mkdir(parents=True)
    (place / "annotations").mkdir()
    annotations: dict[str, list[Json]] = {
        "action_detection": [],
        "video_qa": [],
        "video_captioning": [],
    }
    for index in range(count):
        item = draw_motion(config, split, seed, index, questions)
        name = f"{split}-{index}"
        rate = Fraction(config.rate).limit_denominator(1001)
        write_video(
            place / "videos" / f"{name}.mp4", MotionFrames(item.motion), rate, quality=QUALITY
        )
        known = {"video_id": name, "domain": item.motion.domain}
        annotations["action_detection"].append({**known, "actions": _actions(item)})
        annotations["video_qa"].append({**known, "qa_pairs": _questions(item)})
        annotations["video_captioning"].append({**known, "captions": [tell(item.motion)]})
        yield index
    for name, records in annotations.items():
        text = json.dumps(records, ensure_ascii=False, indent=1)
        (place / "annotations" / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def _actions(item: MotionItem) -> list[Json]:
    return [
        {"start": segment.start, "end": segment.end, "label": segment.label}
        for segment in item.motion.segments
    ]


def _questions(item: MotionItem) -> list[Json]:
    rate = item.motion.rate
    return [
        {
            "question": question.text,
            "answer": question.answer,
            "answers": list(question.answers),
            "kind": question.kind,
            "seen": [side / rate for side in question.seen],
        }
        for question in item.questions
    ]
