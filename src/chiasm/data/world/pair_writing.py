"""A world of pairs as ordinary files, in the form `pairs` that users bring.

    OUTPUT/
      world.json                  what was made: name, seed, counts, configuration
      images/SPLIT/N.png          never JPEG, which would blur textures
      reconstructions/SPLIT/N.png
      targets/SPLIT/N.png         the picture without the occluder
      masks/SPLIT/N.png           white where the thing is hidden; where the world tells it
      pairs.json                  one list, in which each record names its `split`

What no model is given stands in each record under `truth`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from chiasm.core.run_length import encode_run_length
from chiasm.core.samples import Pair, Sample
from chiasm.data.formats.reader import MARKER
from chiasm.data.media import load_image
from chiasm.data.world.occlusion import pair_truth
from chiasm.data.world.worlds import WorldConfig, WorldDataset

FILE = "pairs.json"
SPEAKERS = {"user": "human", "assistant": "gpt"}

Json = dict[str, Any]


def write_pair_split(
    folder: Path, config: WorldConfig, split: str, seed: int, count: int, questions: int
) -> Iterator[int]:
    """Add one split to a folder, yielding after each pair."""
    file = folder / FILE
    records: list[Json] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    dataset = WorldDataset(
        world=config, split=split, seed=seed, count=count, questions_per_image=questions
    )
    told = config.occlusion is not None and config.occlusion.hidden
    for kind in ("images", "reconstructions", "targets", *(["masks"] if told else [])):
        (folder / kind / split).mkdir(parents=True)
    for index in range(count):
        sample = dataset[index]
        if sample.pair is not None:
            records.append(_record(folder, sample, sample.pair, split, index))
        yield index
    file.write_text(json.dumps(records, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _record(folder: Path, sample: Sample, pair: Pair, split: str, index: int) -> Json:
    """Write the pictures of a sample and return its record."""
    pictures = {
        "image_orig": ("images", sample.images[0]),
        "image_recon": ("reconstructions", pair.reconstruction),
        "image_target": ("targets", pair.target),
    }
    record: Json = {"id": f"{split}-{index}"}
    for field, (kind, source) in pictures.items():
        if source is not None:
            record[field] = f"{kind}/{split}/{index}.png"
            load_image(source).save(folder / record[field], compress_level=1)
    if pair.hidden is not None:
        record["occlusion_mask"] = f"masks/{split}/{index}.png"
        white = pair.hidden.read().astype(np.uint8) * 255
        Image.fromarray(white).save(folder / record["occlusion_mask"])
    boxes = {"box_orig": pair.image_box, "box_recon": pair.reconstruction_box}
    record |= {field: list(box) for field, box in boxes.items() if box is not None}
    record["conversations"] = [
        {
            "from": SPEAKERS[turn.role],
            "value": "".join(f"{MARKER}\n" if isinstance(p, int) else p for p in turn.parts),
        }
        for turn in sample.turns
    ]
    truth = pair_truth(sample.truth)
    truth |= {key: encode_run_length(truth[key]) for key in ("whole", "hidden")}
    return {
        **record,
        "group": sample.group,
        "kinds": sample.truth["kinds"],
        "answers": sample.truth["answers"],
        "split": split,
        "truth": truth,
    }
