"""NLVR v1: human sentences about drawn scenes, true or false (Suhr et al. 2017).

A file holds one JSON object a line: `sentence`, `label` ("true" or "false"), `identifier` ("n-m":
presentation n, scene m of it) and `structured_rep`, the scene: three boxes of objects with `type`,
`color`, `size`, `x_loc`, `y_loc`. Images are 400 x 100 PNG, three boxes of 100 x 100 pixels. Two
layouts of images are read:

    dev.json, dev/1021-0.png                          one drawing a scene
    dev.json, images/5/dev-1021-0-3.png               the published one: six drawings a scene, with
                                                      the boxes permuted, in the folder `directory`

Each drawing becomes one sample that asks the sentence and "True or false?". `Sample.truth` holds
`answers`, `kind` ("true_false"), `sentence`, `presentation` and `scene` (the boxes as in the file).
Annotators' single votes (`evals`) are left out: `label` is their outcome.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chiasm.core.errors import DataError, InputError
from chiasm.core.samples import Sample, Turn
from chiasm.data.formats.reader import ReadOptions
from chiasm.data.formats.whole import Whole, WholeFormat
from chiasm.data.splitting import check_fractions, draw_part, tied

QUESTION = "True or false?"
LABELS = ("true", "false")
FIELDS = ("sentence", "label", "identifier", "structured_rep")
PERMUTATIONS = 6


def read(path: Path | str) -> list[Sample]:
    """Read an NLVR file and the names of its images.

    Args:
        path: The JSON-lines file, or a folder that holds exactly one.

    Returns:
        One sample a drawing, in the order of the file. Images are paths; they are not opened.

    Raises:
        DataError: Every fault of the file at once: lines that are no record, missing fields,
            unknown labels, repeated identifiers, records without an image.
    """
    file = _find_file(Path(path))
    samples: list[Sample] = []
    faults: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        record, fault = _parse(line)
        if record is not None:
            identifier = record["identifier"]
            if identifier in seen:
                fault = f"identifier {identifier!r} already stands in line {seen[identifier]}"
            seen[identifier] = number
            images = _find_images(file, record)
            if not images:
                fault = f"no image for {identifier!r}; looked for {_first_names(file, record)}"
        if record is None or fault:
            faults.append(f"line {number}: {fault}")
            continue
        samples += [_sample(record, image, f"{file.name}:{number}") for image in images]
    if faults:
        raise DataError(f"{file}: {len(faults)} fault(s) in NLVR records", faults)
    if not samples:
        raise DataError(f"{file}: no record; an NLVR file holds one JSON object a line")
    return samples


def split(
    samples: Sequence[Sample], fractions: Mapping[str, float], seed: int = 0
) -> dict[str, list[Sample]]:
    """Split samples so that nothing of one sentence or scene lies on two sides.

    Drawings that share a presentation (the first number of the identifier), a scene (up to the
    order of boxes and of objects in them) or a sentence (up to case, white space and end mark) are
    tied together, directly or through others. Each tie goes whole to one part, drawn by a hash of
    `seed` and its smallest presentation number; parts therefore only come near the fractions.

    Args:
        samples: Samples from `read`, possibly of several files.
        fractions: Share of each part, by name; they must sum to 1.
        seed: Another seed gives another split.

    Returns:
        The samples of each part by name, in their order.

    Raises:
        InputError: The fractions do not sum to 1, or a sample is not from `read`.
    """
    check_fractions(fractions)
    parts: dict[str, list[Sample]] = {name: [] for name in fractions}
    for sample, tie in zip(samples, _ties(samples), strict=True):
        parts[draw_part(tie, fractions, seed)].append(sample)
    return parts


def _ties(samples: Sequence[Sample]) -> list[str]:
    """Return for each sample the smallest presentation it is tied to."""
    keys = [_keys(sample) for sample in samples]
    root = tied(keys)
    smallest: dict[str, str] = {}
    for sample, (first, *_) in zip(samples, keys, strict=True):
        presentation = sample.truth["presentation"]
        known = smallest.get(root[first], presentation)
        smallest[root[first]] = min(known, presentation, key=_number)
    return [smallest[root[first]] for first, *_ in keys]


def _number(presentation: str) -> tuple[int, str]:
    return int(presentation) if presentation.isdigit() else -1, presentation


def _keys(sample: Sample) -> tuple[str, str, str]:
    if "presentation" not in sample.truth:
        raise InputError(
            f"NLVR split: sample {sample.identifier!r} has no 'presentation' in its truth; "
            "split samples that chiasm.data.formats.nlvr.read returned"
        )
    boxes = sorted(
        json.dumps(sorted(json.dumps(item, sort_keys=True) for item in box))
        for box in sample.truth["scene"]
    )
    sentence = " ".join(sample.truth["sentence"].lower().split()).rstrip(" .")
    presentation = sample.truth["presentation"]
    return f"presentation {presentation}", f"scene {boxes}", f"sentence {sentence}"


def _find_file(path: Path) -> Path:
    if not path.is_dir():
        if not path.is_file():
            raise DataError(f"{path}: no such file; give an NLVR JSON-lines file or its folder")
        return path
    files = sorted([*path.glob("*.json"), *path.glob("*.jsonl")])
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise DataError(f"{path}: {len(files)} JSON files ({names}); name the one to read")
    return files[0]


def _parse(line: str) -> tuple[dict[str, Any] | None, str]:
    """Return the record and an empty text, or None and what is wrong."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        return None, f"no JSON: {error}"
    if not isinstance(record, dict):
        return None, f"a {type(record).__name__}; allowed: an object"
    missing = [name for name in FIELDS if name not in record]
    if missing:
        return None, f"no {', '.join(missing)}; an NLVR record has {', '.join(FIELDS)}"
    if record["label"] not in LABELS:
        return None, f"label {record['label']!r}; allowed: {', '.join(LABELS)}"
    if not isinstance(record["sentence"], str) or not record["sentence"].strip():
        return None, f"sentence {record['sentence']!r}; allowed: a text that is not empty"
    identifier = record["identifier"]
    if not isinstance(identifier, str) or identifier.count("-") != 1:
        return None, f"identifier {identifier!r}; allowed: two numbers, as '1021-0'"
    return record, ""


def _image_names(file: Path, record: Mapping[str, Any]) -> Iterable[Path]:
    identifier, stem = record["identifier"], file.stem
    yield file.parent / stem / f"{identifier}.png"
    if "directory" in record:
        folder = file.parent / "images" / str(record["directory"])
        for number in range(PERMUTATIONS):
            yield folder / f"{stem}-{identifier}-{number}.png"


def _find_images(file: Path, record: Mapping[str, Any]) -> list[Path]:
    return [name for name in _image_names(file, record) if name.is_file()]


def _first_names(file: Path, record: Mapping[str, Any]) -> str:
    names = [str(name.relative_to(file.parent)) for name in _image_names(file, record)]
    return " and ".join(names[:2])


def _sample(record: Mapping[str, Any], image: Path, origin: str) -> Sample:
    sentence = record["sentence"].strip()
    ended = sentence if sentence[-1] in ".!?" else f"{sentence}."
    return Sample(
        identifier=image.stem,
        turns=(
            Turn(role="user", parts=(0, f"{ended} {QUESTION}")),
            Turn(role="assistant", parts=(record["label"],), supervised=True),
        ),
        images=(image,),
        group="true_false",
        truth={
            "answers": [record["label"]],
            "kind": "true_false",
            "sentence": sentence,
            "presentation": record["identifier"].split("-")[0],
            "scene": record["structured_rep"],
        },
        origin=origin,
    )


def _read_whole(path: Path, options: ReadOptions) -> Whole:
    samples = read(path)
    return Whole(tuple(samples), records=len(samples))


NLVR = WholeFormat(
    claims=lambda fields: all(name in fields for name in FIELDS),
    # A folder of no other form is taken for one of these.
    finds=lambda path: path.is_dir(),
    read=_read_whole,
    form='{"sentence": ..., "label": ..., "identifier": ..., "structured_rep": ...}',
)
