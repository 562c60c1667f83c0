"""The projector of states: each by itself, told its time."""

from dataclasses import replace

import torch

from chiasm.language.video_projector import VideoProjector, VideoProjectorConfig
from tests.unit.language.test_video_places import states


def projector() -> VideoProjector:
    torch.manual_seed(0)
    return VideoProjectorConfig(expansion=3, periods=(1.0, 7.0)).build(width=5, output=11)


def test_a_state_becomes_a_token_of_the_hosts_width_by_itself() -> None:
    built, shown = projector(), states()
    found = built(shown)
    assert found.shape == (2, 4, 11)
    other = replace(shown, features=shown.features.clone())
    other.features[0, 1] *= -1
    changed = (built(other) - found).abs().amax(-1) > 1e-6
    assert changed.tolist() == [[False, True, False, False], [False] * 4]


def test_the_same_state_at_another_time_is_another_token() -> None:
    built, shown = projector(), states()
    later = built(replace(shown, times=shown.times + 0.25))
    assert ((later - built(shown)).abs().amax(-1) > 1e-3).all()
    # After a whole number of all periods it is the same again.
    again = built(replace(shown, times=shown.times + 7.0))
    torch.testing.assert_close(again, built(shown), rtol=0, atol=1e-4)


def test_the_periods_are_seconds() -> None:
    slow, fast = projector(), projector()
    fast.periods = (0.5, 3.5)
    shown = states()
    halved = replace(shown, times=shown.times / 2)
    torch.testing.assert_close(slow(shown), fast(halved), rtol=0, atol=1e-5)
