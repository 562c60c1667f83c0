"""One of several processes of an evaluation of masks."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch

from chiasm.evaluation.bootstrap import Bootstrap
from chiasm.evaluation.grounding import GroundingOptions, evaluate_masks
from chiasm.evaluation.processes import join_processes
from tests.unit.evaluation.painters import Painter, painted


def _some(number: int) -> Any:
    """Every third sample names one thing only."""
    sample = painted(number)
    return dataclasses.replace(sample, phrases=sample.phrases[: 1 if number % 3 == 2 else 2])


SAMPLES = [_some(number) for number in range(7)]


def score() -> tuple[dict[str, Any], list[str]]:
    """Return everything that an evaluation gives in plain values, and the samples seen here."""
    model = Painter()
    options = GroundingOptions(batch_size=2, bootstrap=Bootstrap(resamples=50))
    report = evaluate_masks(model, SAMPLES, options)
    plain = {
        "report": report.to_json(),
        "numbers": report.numbers(),
        "predictions": [found.to_json() for found in report.scores],
    }
    return json.loads(json.dumps(plain)), model.seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = join_processes()
    found, seen = score()
    document = {**found, "seen": seen, "main": place.is_main_process}
    Path(sys.argv[1], f"{place.process_index}.json").write_text(json.dumps(document))
    place.destroy_process_group()
