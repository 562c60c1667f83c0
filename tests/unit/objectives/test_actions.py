"""Losses of actions: targets by hand and back to the truth, in sums and counts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chiasm.core.batch import IGNORE, Batch, VideoBatch
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs
from chiasm.heads.action_decoding import ActionDecoderConfig
from chiasm.heads.actions import ActionHeadConfig
from chiasm.objectives.actions import (
    ActionsConfig,
    ActionSmoothnessConfig,
    action_targets,
    segment_loss,
)
from chiasm.recipes.build import build_objective
from chiasm.recipes.objective_choice import ObjectiveChoice

WIDTH, CLASSES, FRAMES, STEP = 3, 5, 43, 0.5
Given = Sequence[tuple[float, float, int]]


def batch(*rows: Given | None) -> Batch:
    """A batch of videos with (start, end, label) each; None where nobody said."""
    listed = [(row, *found) for row, own in enumerate(rows) for found in own or ()]
    ids = torch.zeros(len(rows), 1, dtype=torch.long)
    none = torch.full((len(rows),), IGNORE)
    videos = VideoBatch(
        frames=(),
        features=(),
        times=(),
        durations=torch.full((len(rows),), FRAMES * STEP),
        segments=torch.tensor([[s, e] for _, s, e, _ in listed]).reshape(-1, 2),
        segment_rows=torch.tensor([row for row, *_ in listed], dtype=torch.long),
        segment_labels=torch.tensor([label for *_, label in listed], dtype=torch.long),
        segments_known=torch.tensor([row is not None for row in rows]),
        asked=torch.arange(len(rows)),
        answers=none,
        domains=none,
    )
    return Batch(ids, ids + 1, none[:, None], ids, videos=videos)


def videos(*rows: Given | None) -> VideoBatch:
    found = batch(*rows).videos
    assert found is not None
    return found


def answers(rows: int, lengths: Sequence[int] | None = None) -> dict[str, Tensor]:
    """What an untrained head says."""
    torch.manual_seed(4)
    head = ActionHeadConfig(borders=(3.0, 7.0), hidden=7).build(width=WIDTH, classes=CLASSES)
    kept = torch.tensor(lengths or [FRAMES] * rows)
    mask = torch.arange(FRAMES) < kept[:, None]
    times = (torch.arange(FRAMES) * STEP).expand(rows, -1)
    return head.predict(torch.randn(rows, FRAMES, WIDTH), mask, times)


def test_targets_by_hand() -> None:
    """One level; points at 0, 1, ..., 9 s. The long segment yields where the short one is."""
    points = torch.tensor([[[float(t), 1.0, 0.0, math.inf] for t in range(10)]])
    mask = torch.ones(1, 10, dtype=torch.bool)
    truth = videos([(1.0, 8.0, 2), (3.5, 5.5, 4)])
    found = action_targets(points, mask, truth, classes=CLASSES, radius=1.5)
    # Middles at 4.5: both reach points 3 to 6, the short one holds 4 and 5 of them.
    assert found.positive[0].nonzero()[:, 0].tolist() == [3, 4, 5, 6]
    assert found.classes[0].argmax(-1)[3:7].tolist() == [2, 4, 4, 2]
    assert found.classes.sum() == 4
    assert found.offsets[0, 3:7].tolist() == [[2.0, 5.0], [0.5, 1.5], [1.5, 0.5], [5.0, 2.0]]
    assert found.centres[0, 4].item() == pytest.approx(math.sqrt(1 / 3))
    assert found.weights[0, 3:7].tolist() == [0.5] * 4
    assert found.reached.tolist() == [True, True]


def test_ranges_choose_the_level() -> None:
    """A point answers where the farther end is at least `low` and less than `high` away."""
    rows = [[5.0, 1.0, low, high] for low, high in ((0.0, 2.0), (2.0, 4.0), (4.0, math.inf))]
    points = torch.tensor([rows])
    mask = torch.ones(1, 3, dtype=torch.bool)
    for length, level in ((1.9, 0), (2.0, 1), (3.9, 1), (4.0, 2)):
        truth = videos([(5 - length, 5 + length, 0)])
        found = action_targets(points, mask, truth, classes=CLASSES, radius=1.5)
        assert found.positive[0].nonzero()[:, 0].tolist() == [level]


def test_the_end_is_not_part_of_a_segment() -> None:
    points = torch.tensor([[[2.0, 1.0, 0.0, math.inf], [3.0, 1.0, 0.0, math.inf]]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    found = action_targets(points, mask, videos([(2.0, 3.0, 1)]), classes=CLASSES, radius=9.0)
    assert found.positive.tolist() == [[True, False]]


def test_two_actions_in_one_place_both_happen() -> None:
    points = torch.tensor([[[2.0, 1.0, 0.0, math.inf]]])
    truth = videos([(1.0, 3.0, 1), (1.0, 3.0, 4), (0.0, 9.0, 2)])
    mask = torch.ones(1, 1, dtype=torch.bool)
    found = action_targets(points, mask, truth, classes=CLASSES, radius=9.0)
    assert found.classes[0, 0].tolist() == [0, 1, 0, 0, 1]
    assert found.reached.tolist() == [True, True, False]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 36), st.integers(2, 40), st.integers(0, CLASSES - 1)),
        min_size=1,
        max_size=4,
    )
)
def test_exact_answers_decode_to_the_truth(found: list[tuple[int, int, int]]) -> None:
    """Whatever is reached comes back with its times and label, and nothing else does."""
    rows = [(a * STEP, min(a + n, FRAMES) * STEP, c) for a, n, c in dict.fromkeys(found)]
    truth = videos(rows)
    named = answers(1)
    points, mask = named["actions.points"], named["actions.mask"]
    targets = action_targets(points, mask, truth, classes=CLASSES, radius=1.5)
    exact = {
        **named,
        "actions.classes": (targets.classes - 0.5) * 80,
        "actions.centres": (targets.positive.float() - 0.5) * 80,
        "actions.offsets": targets.offsets,
    }
    decoder = ActionDecoderConfig(suppression="hard", overlap=0.999, threshold=0.5).build("abcde")
    (seen,) = decoder.decode(exact, truth.durations)
    wanted = {
        (start, end, "abcde"[label])
        for (start, end, label), reached in zip(rows, targets.reached.tolist(), strict=True)
        if reached
    }
    told = {(round(s.start, 4), round(s.end, 4), s.label) for s in seen.segments}
    assert told == wanted
    assert all(s.score == pytest.approx(1) for s in seen.segments)


def test_segment_losses_by_hand() -> None:
    """[-1, 3] beside [-2, 1]: 2 shared of 5; middles 1 and -0.5."""
    ours, theirs = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 1.0])
    assert segment_loss(ours, theirs, "giou").item() == pytest.approx(1 - 2 / 5)
    assert segment_loss(ours, theirs, "diou").item() == pytest.approx(1 - 2 / 5 + (1.5 / 5) ** 2)
    assert segment_loss(ours, ours, "diou").item() == 0


def test_terms_by_hand() -> None:
    """One point of two answers for a segment of 1.5 s behind and 0.5 s before it."""
    data = batch([(0.5, 2.5, 1)])
    logits = torch.tensor([[[0.3, -0.7], [0.2, -1.1]]])
    named = {
        "actions.classes": logits,
        "actions.centres": torch.tensor([[0.4, 9.0]]),
        "actions.offsets": torch.tensor([[[1.0, 0.5], [9.0, 9.0]]]),
        "actions.points": torch.tensor([[[2.0, 1.0, 0.0, 9.0], [8.0, 1.0, 0.0, 9.0]]]),
        "actions.mask": torch.ones(1, 2, dtype=torch.bool),
    }
    objective = ActionsConfig(alpha=0.3, gamma=3.0).build()
    found = objective.score(Outputs(named=named), data)

    def focal(logit: float, right: bool) -> float:
        p = 1 / (1 + math.exp(-logit))
        if right:
            return -0.3 * (1 - p) ** 3 * math.log(p)
        return -0.7 * p**3 * math.log(1 - p)

    wanted = focal(0.3, False) + focal(-0.7, True) + focal(0.2, False) + focal(-1.1, False)
    assert found["actions.classes"].item() == pytest.approx(wanted)
    assert found["actions.overlap"].item() == pytest.approx(1 - 1.5 / 2 + (0.25 / 2) ** 2)
    near, p = math.sqrt(0.5 / 1.5), 1 / (1 + math.exp(-0.4))
    wanted = -near * math.log(p) - (1 - near) * math.log(1 - p)
    assert found["actions.centres"].item() == pytest.approx(wanted)


def test_rows_of_which_nobody_said_anything_are_not_scored() -> None:
    objective = ActionsConfig().build()
    some = [(3.0, 9.0, 2), (12.0, 14.0, 4)]
    data, named = batch(some, None, []), answers(3)
    counts = {"actions.classes": 3.0, "actions.overlap": 2.0, "actions.centres": 2.0}
    assert objective.count(data) == counts
    whole = objective.score(Outputs(named=named), data)
    parts = [
        objective.score(Outputs(named={k: v[[row]] for k, v in named.items()}), batch(own))
        for row, own in ((0, some), (2, []))
    ]
    for term in objective.terms:
        both = sum(part[term].item() for part in parts)
        assert whole[term].item() == pytest.approx(both, rel=1e-5)
    assert parts[1]["actions.classes"] > 0
    assert parts[1]["actions.overlap"] == 0
    unknown = objective.score(Outputs(named=named), batch(None, None, None))
    assert {value.item() for value in unknown.values()} == {0.0}


def test_padding_is_not_scored() -> None:
    objective = ActionsConfig().build()
    smooth = ActionSmoothnessConfig().build()
    named, data = answers(2, [FRAMES, 29]), batch([(3.0, 9.0, 2)], [(1.0, 4.5, 0)])
    noise = {
        name: torch.where(named["actions.mask"].view(2, -1, *[1] * (t.dim() - 2)), t, 7.0)
        if t.is_floating_point() and name != "actions.points"
        else t
        for name, t in named.items()
    }
    assert not torch.equal(noise["actions.classes"], named["actions.classes"])
    for scorer in (objective, smooth):
        clean = scorer.score(Outputs(named=named), data)
        dirty = scorer.score(Outputs(named=noise), data)
        assert {k: v.item() for k, v in clean.items()} == {k: v.item() for k, v in dirty.items()}


def test_more_points_of_a_segment_do_not_make_it_weigh_more() -> None:
    data = batch([(0.0, 10.0, 0)])
    for count in (1, 4):
        rows = [[5.0, 1.0, 0.0, math.inf]] * count
        named = {
            "actions.classes": torch.zeros(1, count, CLASSES),
            "actions.centres": torch.zeros(1, count),
            "actions.offsets": torch.full((1, count, 2), 2.5),
            "actions.points": torch.tensor([rows]),
            "actions.mask": torch.ones(1, count, dtype=torch.bool),
        }
        found = ActionsConfig().build().score(Outputs(named=named), data)
        assert found["actions.overlap"].item() == pytest.approx(0.5)
        assert found["actions.centres"].item() == pytest.approx(math.log(2))


def test_smoothness_by_hand() -> None:
    """Two levels of two points: jumps within a level count, the one between levels does not."""
    probabilities = torch.tensor([0.5, 0.25, 0.9, 0.9])
    named = {
        "actions.classes": probabilities.logit()[None, :, None],
        "actions.points": torch.tensor([[[0, 1, 0, 1], [1, 1, 0, 1], [0, 2, 1, 9], [2, 2, 1, 9]]]),
        "actions.mask": torch.ones(1, 4, dtype=torch.bool),
    }
    smooth = ActionSmoothnessConfig().build()
    found = smooth.score(Outputs(named=named), batch(None))["actions.smoothness"]
    assert smooth.count(batch(None)) == {"actions.smoothness": 1.0}
    assert found.item() == pytest.approx(math.log(2) ** 2 / 2)
    cut = ActionSmoothnessConfig(cut=0.1).build()
    found = cut.score(Outputs(named=named), batch(None))["actions.smoothness"]
    assert found.item() == pytest.approx(0.1**2 / 2)


def test_training_on_one_video_finds_its_actions() -> None:
    torch.manual_seed(6)
    truth = [(2.0, 5.0, 1), (8.0, 17.5, 3)]
    data = batch(truth)
    head = ActionHeadConfig(borders=(3.0, 7.0), hidden=13).build(width=WIDTH, classes=CLASSES)
    x = torch.randn(1, FRAMES, WIDTH)
    times, mask = torch.arange(FRAMES)[None] * STEP, torch.ones(1, FRAMES, dtype=torch.bool)
    optimiser = torch.optim.Adam(head.parameters(), 1e-2)
    objective = ActionsConfig().build()
    for _ in range(120):
        scores = objective.score(Outputs(named=head.predict(x, mask, times)), data)
        optimiser.zero_grad()
        sum(scores.values()).backward()
        optimiser.step()
    assert data.videos is not None
    decoder = ActionDecoderConfig(suppression="hard").build("abcde")
    (found,) = decoder.decode(head.predict(x, mask, times), data.videos.durations)
    best = {s.label: (s.start, s.end) for s in sorted(found.segments[:2])}
    assert best.keys() == {"b", "d"}
    assert best["b"] == pytest.approx((2.0, 5.0), abs=0.5)
    assert best["d"] == pytest.approx((8.0, 17.5), abs=0.5)


def test_wrong_input_is_told() -> None:
    objective, named = ActionsConfig().build(), answers(1)
    with pytest.raises(InputError, match="the label 7, the head knows 0 to 4"):
        objective.score(Outputs(named=named), batch([(1.0, 2.0, 7)]))
    with pytest.raises(InputError, match=r"goes from 2.0 to 2.0 s; it must end after"):
        objective.score(Outputs(named=named), batch([(2.0, 2.0, 1)]))
    with pytest.raises(InputError, match="1 rows of points for 2 videos"):
        objective.score(Outputs(named=named), batch([(1.0, 2.0, 1)], []))
    with pytest.raises(InputError, match=r"no 'actions.classes'; it gives nothing. Build it with"):
        objective.score(Outputs(), batch([(1.0, 2.0, 1)]))


def test_a_recipe_names_smoothness_to_have_it() -> None:
    plain = build_objective(ObjectiveChoice(actions={"classes": 2.0}))
    assert plain.weights == {"actions.classes": 2.0, "actions.overlap": 1, "actions.centres": 1}
    smooth = build_objective(ObjectiveChoice(actions={"smoothness": 0.25}))
    assert smooth.weights["actions.smoothness"] == 0.25
    counts = smooth.count(batch([(1.0, 2.0, 1)], []))
    assert counts["actions.smoothness"] == 2
