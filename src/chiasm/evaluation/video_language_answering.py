"""A host that watches videos as something that answers questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chiasm.core.samples import Sample
from chiasm.evaluation.answering import MOST_NEW_TOKENS
from chiasm.models.video_language import VideoLanguage


class VideoLanguageAnswerer:
    """Answers samples with videos in batches, greedily; see `evaluation.protocols.Answerer`.

    Questions about one video that follow each other are asked of one reading of it.

    Args:
        model: The model.
        name: Name or directory of the run, for reports.
        max_new_tokens: Longest answer.
    """

    def __init__(
        self, model: VideoLanguage, name: str = "", max_new_tokens: int = MOST_NEW_TOKENS
    ) -> None:
        self.model = model
        self.name = name
        self.max_new_tokens = max_new_tokens

    def answers(self, samples: Sequence[Sample]) -> list[str]:
        """Answer the last user turn of each sample."""
        batch = self.model.collator.collate(samples, generation=True)
        batch = batch.to(self.model.host.device)
        return self.model.generate(batch, max_new_tokens=self.max_new_tokens)

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
