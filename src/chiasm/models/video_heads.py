"""What reads the states of videos."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from chiasm.core.batch import VideoBatch
from chiasm.core.tokens import VisualTokens
from chiasm.heads.actions import ActionHead
from chiasm.heads.answers import AnswerHead
from chiasm.heads.captions import CaptionHead
from chiasm.heads.cells import CellHead
from chiasm.layers.frame_pool import FramePool
from chiasm.objectives.captions import LOGITS, TARGETS


@dataclass(frozen=True)
class VideoHeads:
    """What reads the states; None where that is not asked for.

    Attributes:
        cells: Says of each cell of each frame what it shows: dense supervision.
        answers: Answers questions out of a closed set.
        actions: Says at each moment what happens, from when to when.
        frames: Makes one state a frame for `actions`; there exactly when `actions` is.
        captions: Writes what happens, in words of its own vocabulary.
    """

    cells: CellHead | None = None
    answers: AnswerHead | None = None
    actions: ActionHead | None = None
    frames: FramePool | None = None
    captions: CaptionHead | None = None

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The heads that are there, by name."""
        named = {
            "cell_head": self.cells,
            "answer_head": self.answers,
            "action_head": self.actions,
            "frame_pool": self.frames,
            "caption_head": self.captions,
        }
        return {name: part for name, part in named.items() if part is not None}


def score_captions(
    head: CaptionHead, memory: VisualTokens, videos: VideoBatch
) -> dict[str, Tensor]:
    """Score the captions of a batch, each by what is remembered of its video.

    Returns:
        `captions.logits` float32 (P, words) and `captions.targets` int64 (P,), see
        `CaptionHead.predict`; nothing where the batch holds no caption.
    """
    if not videos.captions:
        return {}
    rows = videos.captioned
    logits, targets = head.predict(
        memory.features[rows], memory.mask[rows], videos.captions, sizes=memory.sizes[rows]
    )
    return {LOGITS: logits, TARGETS: targets}
