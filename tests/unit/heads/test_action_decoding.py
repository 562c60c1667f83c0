"""Decoding: suppression as the published algorithm, everything left out counted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from chiasm.core.errors import InputError
from chiasm.heads.action_decoding import (
    LEFT_OUT,
    ActionDecoderConfig,
    FoundSegment,
    Suppression,
    suppress,
)
from chiasm.metrics.temporal import temporal_iou

LABELS = ("walk", "jump", "turn")


def random_segments(count: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    start = random.uniform(0, 40, count)
    segments = np.stack([start, start + random.uniform(0.5, 20, count)], 1)
    return segments, random.uniform(0, 1, count)


def plain_soft_nms(
    segments: np.ndarray, scores: np.ndarray, choice: ActionDecoderConfig
) -> list[tuple[int, float]]:
    """The algorithm of the paper's figure 3, item by item."""
    left = {i: float(s) for i, s in enumerate(scores)}
    kept = []
    while left:
        best = max(left, key=lambda i: left[i])
        kept.append((best, left.pop(best)))
        for i in list(left):
            iou = temporal_iou(list(segments[best]), list(segments[i]))
            if choice.suppression == "gaussian":
                left[i] *= math.exp(-(iou**2) / choice.sigma)
            elif iou > choice.overlap:
                left[i] *= 1 - iou if choice.suppression == "linear" else 0
            if left[i] < choice.threshold:
                del left[i]
    return kept


@pytest.mark.parametrize("kind", ["gaussian", "linear", "hard"])
def test_suppression_is_that_of_the_paper(kind: Suppression) -> None:
    segments, scores = random_segments(61)
    choice = ActionDecoderConfig(suppression=kind, overlap=0.3, sigma=0.4, threshold=0.05)
    kept, lowered = suppress(segments, scores, choice)
    wanted = plain_soft_nms(segments, scores, choice)
    # The starting list also holds scores below the threshold, as the decoder never gives.
    wanted = [(i, s) for i, s in wanted if s >= choice.threshold]
    own = [(i, s) for i, s in zip(kept.tolist(), lowered.tolist(), strict=True) if s >= 0.05]
    assert [i for i, _ in own] == [i for i, _ in wanted]
    assert [s for _, s in own] == pytest.approx([s for _, s in wanted])
    assert 1 < len(own) < 61


def test_hard_suppression_is_that_of_torchvision() -> None:
    segments, scores = random_segments(53)
    choice = ActionDecoderConfig(suppression="hard", overlap=0.4, threshold=0.0)
    kept, _ = suppress(segments, scores, choice)
    boxes = torch.tensor([[start, 0.0, end, 1.0] for start, end in segments])
    assert kept.tolist() == nms(boxes, torch.tensor(scores), 0.4).tolist()


def answers(*told: tuple[float, float, float, int, float], lengths: int = 1) -> dict[str, Tensor]:
    """One video, whose points say (time, back, on, label, probability)."""
    classes = torch.full((1, len(told), len(LABELS)), -80.0)
    for place, (*_, label, probability) in enumerate(told):
        classes[0, place, label] = torch.tensor(probability).logit()
    return {
        "actions.classes": classes,
        "actions.centres": torch.full((1, len(told)), 80.0),
        "actions.offsets": torch.tensor([[[back, on] for _, back, on, *_ in told]]),
        "actions.points": torch.tensor([[[time, 1.0, 0.0, 9.0] for time, *_ in told]]),
        "actions.mask": torch.ones(1, len(told), dtype=torch.bool),
    }


def test_points_become_segments() -> None:
    named = answers((5.0, 2.0, 3.0, 1, 0.5), (4.0, 1.0, 1.5, 0, 0.75))
    named["actions.centres"] = torch.tensor([[0.0, 80.0]])
    (found,) = ActionDecoderConfig().build(LABELS).decode(named, torch.tensor([20.0]))
    assert found.segments == (
        FoundSegment(3.0, 5.5, "walk", pytest.approx(0.75)),
        FoundSegment(3.0, 8.0, "jump", pytest.approx(0.25)),
    )
    assert found.segments[0].to_plain() == {
        "label": "walk",
        "score": pytest.approx(0.75),
        "segment": [3.0, 5.5],
    }
    assert found.cut == 0
    assert found.left_out == {**dict.fromkeys(LEFT_OUT, 0), "low score": 4}


def test_labels_do_not_suppress_each_other() -> None:
    named = answers((5.0, 2.0, 2.0, 0, 0.9), (5.0, 2.0, 2.0, 1, 0.8), (5.0, 2.0, 2.1, 0, 0.7))
    decoder = ActionDecoderConfig(suppression="hard").build(LABELS)
    (found,) = decoder.decode(named, torch.tensor([20.0]))
    assert [s.label for s in found.segments] == ["walk", "jump"]
    assert found.left_out["suppressed"] == 1
    (every,) = (
        ActionDecoderConfig(suppression="none").build(LABELS).decode(named, torch.tensor([20.0]))
    )
    assert [s.score for s in every.segments] == pytest.approx([0.9, 0.8, 0.7])


def test_all_that_is_left_out_or_cut_is_counted() -> None:
    named = answers(
        (5.0, 2.0, 2.0, 0, 0.9),
        (1.0, 2.0, 2.0, 1, 0.8),
        (15.0, 2.0, 7.0, 2, 0.7),
        (21.0, 0.5, 2.0, 2, 0.6),
        (5.0, 2.0, 2.1, 0, 0.5),
        (9.0, 2.0, 2.0, 0, 0.4),
        (11.0, 0.5, 0.5, 1, 0.3),
        (12.0, 0.5, 0.5, 1, 0.2),
    )
    named["actions.mask"][0, 7] = False
    choice = ActionDecoderConfig(suppression="hard", threshold=0.1, candidates=6, limit=3)
    (found,) = choice.build(LABELS).decode(named, torch.tensor([20.0]))
    assert [(s.start, s.end) for s in found.segments] == [(3.0, 7.0), (0.0, 3.0), (13.0, 20.0)]
    assert found.cut == 2
    assert found.left_out == {
        "low score": 14,
        "beyond candidates": 1,
        "outside the video": 1,
        "suppressed": 1,
        "beyond limit": 1,
    }
    assert sum(found.left_out.values()) + len(found.segments) == 7 * len(LABELS)


def test_a_video_alone_is_decoded_as_in_a_batch() -> None:
    torch.manual_seed(8)
    rows, points = 3, 37
    named = {
        "actions.classes": torch.randn(rows, points, len(LABELS)),
        "actions.centres": torch.randn(rows, points),
        "actions.offsets": torch.rand(rows, points, 2) * 5,
        "actions.points": torch.rand(rows, points, 4) * 30,
        "actions.mask": torch.rand(rows, points) < 0.8,
    }
    durations = torch.tensor([11.0, 23.0, 31.0])
    decoder = ActionDecoderConfig(threshold=0.2).build(LABELS)
    together = decoder.decode(named, durations)
    for row in range(rows):
        own = {name: tensor[[row]] for name, tensor in named.items()}
        assert decoder.decode(own, durations[[row]]) == [together[row]]
    assert min(len(found.segments) for found in together) > 3


def test_a_video_of_nothing() -> None:
    named = answers((5.0, 2.0, 2.0, 0, 1e-9))
    (found,) = ActionDecoderConfig().build(LABELS).decode(named, torch.tensor([20.0]))
    assert found.segments == ()


def test_wrong_input_is_told() -> None:
    named = answers((5.0, 2.0, 2.0, 0, 0.9))
    with pytest.raises(InputError, match=r"\['a', 'b'\]; give the head's own list"):
        ActionDecoderConfig().build(("a", "b")).decode(named, torch.tensor([20.0]))
    with pytest.raises(InputError, match=r"no actions\.mask among"):
        ActionDecoderConfig().build(LABELS).decode(
            {k: v for k, v in named.items() if k != "actions.mask"}, torch.tensor([20.0])
        )
    with pytest.raises(InputError, match=r"\['a', 'a'\]; give each a name of its own"):
        ActionDecoderConfig().build(("a", "a"))
