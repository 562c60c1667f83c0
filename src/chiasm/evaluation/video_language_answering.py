"""A host that watches videos as something that answers questions."""

from __future__ import annotations

from typing import Any

from chiasm.evaluation.answering import GreedyAnswerer
from chiasm.models.video_language import VideoLanguage


class VideoLanguageAnswerer(GreedyAnswerer[VideoLanguage]):
    """Answers samples with videos in batches, greedily.

    Questions about one video that follow each other are asked of one reading of it.
    """

    def describe(self) -> dict[str, Any]:
        """Return what shaped the answers."""
        host, collator = self.model.host, self.model.collator
        watching = collator.videos
        return {
            "model": self.name,
            "prompt": "the video, then the question, in the host's chat template",
            "dtype": str(host.dtype).removeprefix("torch."),
            "attention": str(host.model.config.get_text_config()._attn_implementation),
            "pixels": {"size": watching.size, "sampling": watching.sampling.model_dump()},
            "budget": collator.budget,
            "generation": {"max_new_tokens": self.max_new_tokens, "temperature": 0.0},
        }
