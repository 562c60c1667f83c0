"""The merge ledgers of a model of long videos: unmerged, and merged as it was trained."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from chiasm.core.samples import Sample
from chiasm.evaluation.merge_ledger import MergeLedger, keep_ledger
from chiasm.evaluation.video_stages import VideoModel, video_stages
from chiasm.models.probes import probing

UNMERGED, MERGED = "unmerged", "merged"


def keep_video_ledgers(
    model: VideoModel,
    sample: Sample,
    *,
    repeats: int = 5,
    finish: Callable[[Mapping[str, Any]], Any] | None = None,
    memory: bool = True,
) -> dict[str, MergeLedger]:
    """Keep the ledger of one video with and without merging.

    Peak memory is told where it can be measured: on Linux, without a GPU, by a process of one
    thread.

    Args:
        model: The model; its compression is taken off for a while, and put on again.
        sample: The video; what is said or asked about it does not count.
        repeats: Runs that count.
        finish: Makes segments or words of what the heads say; see `video_stages`.
        memory: Whether peak memory is wanted. It forks, which a process that has trained should
            not: libraries may have left threads of their own behind.

    Returns:
        `unmerged`, and `merged` where the model merges.
    """
    reading, watched = model.reading, replace(sample, turns=(), segments=None, group="")
    assert isinstance(model, nn.Module)
    memory = memory and can_measure_memory()
    context = {"video": sample.identifier, "memory": "measured" if memory else "not measured"}
    options: dict[str, Any] = {"repeats": repeats, "memory": memory, "context": context}
    own = reading.compression
    ledgers: dict[str, MergeLedger] = {}
    with probing(model):
        try:
            reading.compression = None
            ledgers[UNMERGED] = keep_ledger(
                video_stages(model, watched, finish), watched, merging=reading, **options
            )
        finally:
            reading.compression = own
        if own is not None:
            ledgers[MERGED] = keep_ledger(
                video_stages(model, watched, finish), watched, merging=reading, **options
            )
    return ledgers


def can_measure_memory() -> bool:
    """Whether `keep_ledger` can see peak memory here."""
    alone = torch.get_num_threads() == 1 and threading.active_count() == 1
    return sys.platform == "linux" and alone and not torch.cuda.is_initialized()
