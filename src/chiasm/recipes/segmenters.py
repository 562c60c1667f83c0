"""How well a segmenter does, by what it was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chiasm.core.samples import Sample
from chiasm.metrics.masks import mask_iou
from chiasm.models.probes import probing
from chiasm.models.segmenter import Segmenter

BATCH = 16


def segment_quality(model: Segmenter, samples: Sequence[Sample]) -> Mapping[str, float]:
    """Return the mean intersection over union of a segmenter's masks.

    Args:
        model: The segmenter.
        samples: Samples of one picture with masks.

    Returns:
        `iou` of masks drawn with a coarse mask among their prompts, which is what refinement asks
        for (of all masks where none was), `iou_all`, and `iou_coarse`, that of the coarse masks
        themselves, cut at logit 0.
    """
    refined: list[float] = []
    coarse: list[float] = []
    everything: list[float] = []
    device = next(model.parameters()).device
    with probing(model):
        for start in range(0, len(samples), BATCH):
            batch = model.collator(samples[start : start + BATCH]).to(device)
            assert batch.phrases is not None
            predicted = model(batch).masks["refined"]
            given = model.coarse_masks(batch)
            for mask, truth, prompt in zip(predicted, batch.phrases.masks, given, strict=True):
                pixels = truth.cpu().numpy()
                everything.append(mask_iou((mask > 0).cpu().numpy(), pixels))
                if prompt is not None:
                    refined.append(everything[-1])
                    coarse.append(mask_iou((prompt > 0).cpu().numpy(), pixels))
    found = {"iou_all": _mean(everything), "iou": _mean(refined or everything)}
    return {**found, "iou_coarse": _mean(coarse)} if coarse else found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
