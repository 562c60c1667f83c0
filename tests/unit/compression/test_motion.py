"""Motion: only what moves lights up, in pixels; a still clip is zero; flows and their errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models.optical_flow import raft_small

from chiasm.compression.flow import RAFT, load_raft
from chiasm.compression.motion import MOTIONS, RAFTConfig
from chiasm.compression.views import ClipView, to_cells, to_unit
from chiasm.core.errors import CheckpointError, InputError, MissingExtraError
from chiasm.core.grid import ImageGeometry
from tests.unit.compression.clips import grid

CHEAP = ("difference", "dis")


def texture(height: int, width: int, seed: int = 0) -> Tensor:
    """A smooth random picture, uint8 (height, width, 3), equal in all colours."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, height // 4 + 1, width // 4 + 1, generator=generator) * 255
    smooth = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255)
    return smooth[0, 0, :, :, None].byte().expand(-1, -1, 3).contiguous()


def walking_square() -> ClipView:
    """A square of 24 x 24 in front of a still picture, 3 pixels to the right each frame."""
    frames = texture(72, 104, seed=1).repeat(3, 1, 1, 1)
    for index in range(3):
        frames[index, 24:48, 40 + 3 * index : 64 + 3 * index] = texture(24, 24)
    return ClipView(grid(9, 13), frames=frames)


def test_difference_lights_up_the_moved_cells_only() -> None:
    view = walking_square()
    found = MOTIONS["difference"]().build().magnitude(view)
    assert found.shape == (3, 9, 13)
    # Frame 0 and 1 differ from column 40 to 67, which is in the cells 5 to 8.
    moved = torch.zeros(9, 13, dtype=torch.bool)
    moved[3:6, 5:9] = True
    assert torch.equal(found[0] > 0, moved)
    frames = view.frames.float()
    cell = (frames[0] - frames[1]).abs()[24:32, 40:48].mean()
    torch.testing.assert_close(found[0, 3, 5], cell)
    assert torch.equal(found[2], found[1])


def test_bytes_do_not_wrap() -> None:
    frames = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    frames[0, :8] = 250
    frames[1, 8:] = 250
    found = MOTIONS["difference"]().build().magnitude(ClipView(grid(2, 2), frames=frames))
    torch.testing.assert_close(found, torch.full((2, 2, 2), 250.0))


def test_flow_lights_up_what_moves() -> None:
    found = MOTIONS["dis"](preset="medium").build().magnitude(walking_square())
    # The square is small for this estimator, which blurs its border.
    assert found[0, 4, 6] == pytest.approx(3, abs=0.6)
    far = torch.cat([found[:, :, :3].flatten(), found[:, :, 11:].flatten()])
    assert far.max() < 0.1


def test_flow_is_not_normalised() -> None:
    picture = texture(64, 96)
    lengths = []
    for step in (2, 6):
        frames = torch.stack([picture, picture.roll(step, 1)])
        found = (
            MOTIONS["dis"](preset="medium").build().magnitude(ClipView(grid(8, 12), frames=frames))
        )
        lengths.append(float(found[0, 2:6, 3:9].mean()))
    assert lengths[0] == pytest.approx(2, abs=0.3)
    assert lengths[1] == pytest.approx(6, abs=0.5)


@pytest.mark.parametrize("name", [*CHEAP, "features"])
@pytest.mark.parametrize("frames", [1, 3])
def test_still_clips_are_zero(name: str, frames: int) -> None:
    tokens = torch.randn(1, 104, 7, generator=torch.Generator().manual_seed(0))
    view = ClipView(
        grid(8, 13),
        frames=texture(64, 104).expand(frames, -1, -1, -1),
        features=tokens.expand(frames, -1, -1),
    )
    motion = MOTIONS[name]().build()
    for found in (motion.magnitude(view), motion.importance(view)):
        assert found.shape == (frames, 8, 13)
        assert not found.any()


@pytest.mark.parametrize(("name", "more"), [("difference", {}), ("dis", {"preset": "medium"})])
def test_importance_of_the_moved_is_one(name: str, more: dict[str, str]) -> None:
    found = MOTIONS[name](**more).build().importance(walking_square())
    assert found.min() >= 0 and found.max() == 1
    assert found[0, 3:6, 5:9].max() == 1 and found[0, 0, 0] < 0.01


def test_noise_is_no_movement() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(-2, 3, (4, 64, 64, 3), generator=generator)
    frames = (128 + noise).byte()
    found = MOTIONS["difference"]().build().importance(ClipView(grid(8, 8), frames=frames))
    assert found.max() < 0.3


def test_robust_maximum_is_of_the_clip() -> None:
    magnitude = torch.arange(1.0, 101.0).view(4, 5, 5)
    found = to_unit(magnitude, 95.0, 1.0)
    assert found.flatten()[94] == 1 and found.flatten()[93] == pytest.approx(94 / 95)
    assert found.flatten()[0] == pytest.approx(1 / 95)
    assert to_unit(magnitude / 1000, 95.0, 1.0).max() == pytest.approx(0.1)


def test_change_of_features_is_one_minus_cosine() -> None:
    features = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    found = MOTIONS["features"]().build().magnitude(ClipView(grid(2, 3), features=features))
    wanted = 1 - F.cosine_similarity(features[0], features[1], dim=-1)
    torch.testing.assert_close(found[0].flatten(), wanted)
    assert torch.equal(found[2], found[1])


def test_frames_of_any_size_show_the_same_cells() -> None:
    view = walking_square()
    large = view.frames.repeat_interleave(3, 1).repeat_interleave(2, 2)
    motion = MOTIONS["difference"]().build()
    torch.testing.assert_close(
        motion.magnitude(ClipView(view.geometry, frames=large)), motion.magnitude(view)
    )


def test_cells_average_their_part_of_the_image() -> None:
    # 3 x 5 original pixels, cells of 2 x 2, padded by 1 on the left: a cell reaches over the edge.
    geometry = ImageGeometry(3, 5, 1.0, 1.0, 1.0, 0.0, 2.0, 2.0, 2, 4)
    values = torch.arange(15.0).view(1, 3, 5)
    found = to_cells(values, geometry)[0]
    wanted = torch.tensor([[2.5, 4.0, 6.0, 0.0], [10.0, 11.5, 13.5, 0.0]])
    torch.testing.assert_close(found, wanted)
    # Cells that cut through pixels weigh them by area.
    thirds = ImageGeometry.from_resize((3, 5), (4, 6), (2, 2))
    found = to_cells(values, thirds)[0]
    torch.testing.assert_close(found.mean(), values.mean())
    torch.testing.assert_close(
        found[0, 0],
        (
            values[0, 0, 0]
            + values[0, 0, 1] * 2 / 3
            + (values[0, 1, 0] + values[0, 1, 1] * 2 / 3) / 2
        )
        / 2.5,
    )


def small_raft() -> torch.nn.Module:
    torch.manual_seed(0)
    return raft_small(weights=None).eval()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_raft_is_read_from_a_local_file(name: str, tmp_path: Path) -> None:
    model = small_raft()
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    frames = torch.stack([texture(130, 150), texture(130, 150).roll(2, 1)])
    view = ClipView(grid(5, 7), frames=frames)
    motion = RAFTConfig(path=str(path), updates=1).build()
    assert not motion.signal.model.training
    found = motion.magnitude(view)
    assert found.shape == (2, 5, 7)
    torch.testing.assert_close(found, RAFT(model=model, updates=1).magnitude(view))
    one = motion.magnitude(ClipView(grid(5, 7), frames=frames[:1]))
    assert one.shape == (1, 5, 7) and not one.any()


def test_raft_measures_the_length_of_its_last_flow() -> None:
    class Constant(torch.nn.Module):
        """Every pixel goes 3 right and 4 down."""

        def __init__(self) -> None:
            super().__init__()
            self.step = torch.nn.Parameter(torch.tensor([3.0, 4.0]))

        def forward(self, first: Tensor, second: Tensor, num_flow_updates: int) -> list[Tensor]:
            assert first.shape == (1, 3, 136, 152)
            assert first.min() >= -1 and first.max() <= 1
            flow = self.step[None, :, None, None].expand(1, 2, 136, 152)
            return [flow * (update + 1) for update in range(num_flow_updates)]

    frames = texture(130, 150).expand(3, -1, -1, -1)
    found = RAFT(model=Constant(), updates=2).magnitude(ClipView(grid(5, 7), frames=frames))
    torch.testing.assert_close(found, torch.full((3, 5, 7), 10.0))


def test_raft_files_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no weights of RAFT at .*none.pth; give a local"):
        load_raft(tmp_path / "none.pth", "small")
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    with pytest.raises(CheckpointError, match=r"does not hold the weights of .*raft_large"):
        load_raft(other, "large")
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"does not hold the weights of .*raft_small"):
        load_raft(broken, "small")


def test_missing_opencv_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"opencv-python-headless.*chiasm\[video\]"):
        MOTIONS["dis"]().build()


@pytest.mark.parametrize(
    ("name", "view", "message"),
    [
        ("difference", {}, "the frame difference needs the frames of the clip"),
        ("features", {}, "needs the features of the clip"),
        (
            "dis",
            {"frames": torch.zeros(2, 15, 40, 3, dtype=torch.uint8)},
            "15 x 40 pixels; DIS optical flow needs at least 16",
        ),
    ],
)
def test_what_a_signal_lacks_is_named(name: str, view: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MOTIONS[name]().build().magnitude(ClipView(grid(3, 5), **view))


def test_raft_needs_large_frames() -> None:
    frames = torch.zeros(2, 127, 200, 3, dtype=torch.uint8)
    with pytest.raises(InputError, match="127 x 200 pixels; RAFT optical flow needs at least 128"):
        RAFT(model=small_raft()).magnitude(ClipView(grid(3, 5), frames=frames))


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ({"frames": torch.zeros(2, 16, 40, 3)}, "type torch.float32; give uint8"),
        ({"frames": torch.zeros(2, 3, 16, 40, dtype=torch.uint8)}, r"frames of shape \(2, 3, 16"),
        ({"frames": torch.zeros(0, 16, 40, 3, dtype=torch.uint8)}, r"frames of shape \(0,"),
        ({"features": torch.zeros(2, 16, 7)}, "for 15 cells"),
        ({"attention": torch.zeros(2, 16)}, r"attention of shape \(2, 16\) for 15 cells"),
        (
            {"features": torch.zeros(2, 15, 7), "attention": torch.zeros(3, 15)},
            "one number of frames; found features: 2, attention: 3",
        ),
    ],
)
def test_views_that_do_not_fit(view: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClipView(grid(3, 5), **view)
