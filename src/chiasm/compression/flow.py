"""Optical flow: how far every pixel goes, in pixels of the frames given."""

from __future__ import annotations

import itertools
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.compression.views import ClipView, grey, to_cells
from chiasm.core.errors import CheckpointError, InputError, MissingExtraError

DIS_SIDE, RAFT_SIDE = 16, 128
"""Fewest pixels a side of frames whose flow they find; below its own the coarsest level of RAFT's
correlations is empty."""

Preset = Literal["ultrafast", "fast", "medium"]
"""OpenCV's names for a trade of speed against accuracy."""


class DIS:
    """Dense inverse search (Kroeger et al., 2016, arXiv:1603.03590), by OpenCV.

    Frames have at least `DIS_SIDE` pixels a side.

    Args:
        preset: Speed against accuracy.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """

    def __init__(self, *, preset: Preset = "fast") -> None:
        opencv = _import_opencv()
        presets = {
            "ultrafast": opencv.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
            "fast": opencv.DISOPTICAL_FLOW_PRESET_FAST,
            "medium": opencv.DISOPTICAL_FLOW_PRESET_MEDIUM,
        }
        self._flow = opencv.DISOpticalFlow_create(presets[preset])

    def magnitude(self, view: ClipView) -> Tensor:
        """Return the mean length of the flow of each cell's pixels; reads the frames."""
        frames = view.pictures("optical flow")
        _check_side(frames, DIS_SIDE, "DIS optical flow")
        levels = grey(frames).round().byte().cpu().numpy()
        following = [*range(1, len(frames)), len(frames) - 2]
        lengths = np.zeros(levels.shape, dtype=np.float32)
        for index, other in enumerate(following if len(frames) > 1 else []):
            flow = self._flow.calc(levels[index], levels[other], None)
            lengths[index] = np.hypot(flow[..., 0], flow[..., 1])
        return to_cells(torch.from_numpy(lengths).to(frames.device), view.geometry)


class RAFT:
    """RAFT (Teed and Deng, 2020, arXiv:2003.12039), by torchvision.

    Frames have at least `RAFT_SIDE` pixels a side.

    Args:
        model: A RAFT model of torchvision, in evaluation mode. It is run where its weights are.
        updates: Refinements of the flow.
    """

    def __init__(self, *, model: nn.Module, updates: int = 6) -> None:
        self.model = model
        self.updates = updates

    @torch.no_grad()
    def magnitude(self, view: ClipView) -> Tensor:
        """Return the mean length of the flow of each cell's pixels; reads the frames."""
        frames = view.pictures("optical flow")
        _check_side(frames, RAFT_SIDE, "RAFT optical flow")
        device = next(self.model.parameters()).device
        colours = frames.to(device).movedim(3, 1).float() / 127.5 - 1
        height, width = colours.shape[2:]
        # Padding repeats the border, so that no flow begins there.
        colours = F.pad(colours, (0, -width % 8, 0, -height % 8), mode="replicate")
        lengths = [
            self.model(one[None], other[None], num_flow_updates=self.updates)[-1].norm(dim=1)
            for one, other in _pairs(colours)
        ]
        if not lengths:
            return frames.new_zeros((1, view.geometry.rows, view.geometry.columns)).float()
        found = torch.cat(lengths)[:, :height, :width].to(frames.device)
        return to_cells(found, view.geometry)


def load_raft(path: Path, size: Literal["small", "large"]) -> nn.Module:
    """Load torchvision's RAFT from a local file.

    Args:
        path: A safetensors file, or the .pth file that torchvision publishes.
        size: Which of torchvision's models.

    Raises:
        CheckpointError: The file is missing, is no checkpoint, or holds other weights.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torchvision.models import optical_flow

    build = {"small": optical_flow.raft_small, "large": optical_flow.raft_large}[size]
    if not path.is_file():
        raise CheckpointError(
            f"no weights of RAFT at {path}; give a local file with the weights of torchvision's "
            f"{build.__name__}, as safetensors or .pth"
        )
    model: nn.Module = build(weights=None)
    try:
        if path.suffix == ".safetensors":
            weights: Any = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError, TypeError, ValueError, EOFError, OSError) as error:
        raise CheckpointError(
            f"{path} does not hold the weights of torchvision's {build.__name__}: {error}"
        ) from error
    except UnpicklingError:
        # The library's message advises to read the file unsafely.
        raise CheckpointError(
            f"{path} does not hold the weights of torchvision's {build.__name__}: it is no "
            "checkpoint, or holds more than tensors; give the published file"
        ) from None
    return model.eval().requires_grad_(False)


def _pairs(frames: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return each frame with the one after it, the last with the one before it."""
    if len(frames) == 1:
        return []
    return [*itertools.pairwise(frames), (frames[-1], frames[-2])]


def _check_side(frames: Tensor, least: int, what: str) -> None:
    height, width = frames.shape[1:3]
    if min(height, width) < least:
        raise InputError(
            f"frames of {height} x {width} pixels; {what} needs at least {least} a side: give "
            "larger frames, or another motion signal"
        )


def _import_opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("opencv-python-headless", "video", "DIS optical flow") from error
    return cv2
