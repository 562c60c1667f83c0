"""What captions of videos are made of: requests, and a closed vocabulary of words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chiasm.core.errors import ConfigError, DataError
from chiasm.core.samples import Sample
from chiasm.data.conversation import name_of
from chiasm.data.video_words import VIDEO_REQUEST
from chiasm.data.vocabulary import Vocabulary


class VideoCaptions:
    """Finds the captions of samples, and turns them to numbers and back.

    A caption is the assistant's turn that follows a request for one. Its words are kept in lower
    case and without punctuation; a word that is not in the vocabulary could never be written, and
    is an error.

    Args:
        words: Every word of every caption.
        requests: What a user says who wants a caption.
        longest: Most words of a caption.

    Raises:
        ConfigError: There is no word or no request, or an entry of `words` is no single word.
    """

    def __init__(
        self, words: Sequence[str], *, requests: Sequence[str] = (VIDEO_REQUEST,), longest: int
    ) -> None:
        if not words or not requests:
            raise ConfigError(
                f"captions: {len(words)} words and {len(requests)} requests; give at least one of "
                "each"
            )
        self.vocabulary = Vocabulary(words)
        self.requests = frozenset(requests)
        self.longest = longest

    def read(self, sample: Sample) -> list[Tensor]:
        """Return the captions of a sample, each int64 (n,), ids of the vocabulary.

        Raises:
            DataError: A caption has no word, one that is not in the vocabulary, or too many.
        """
        return [
            self._encode(following.text, sample)
            for turn, following in zip(sample.turns, sample.turns[1:], strict=False)
            if turn.role == "user"
            and following.role == "assistant"
            and turn.text.strip() in self.requests
        ]

    def _encode(self, text: str, sample: Sample) -> Tensor:
        unknown = list(dict.fromkeys(self.vocabulary.unknown(text)))
        if unknown:
            raise DataError(
                f"{name_of(sample)}: {len(unknown)} word(s) of the caption are none of the "
                f"{len(self.vocabulary.words)} that the model writes: {', '.join(unknown)}; add "
                "them to `video.caption_words`, or leave the sample out"
            )
        ids = self.vocabulary.encode(text)
        if not 0 < len(ids) <= self.longest:
            raise DataError(
                f"{name_of(sample)}: a caption of {len(ids)} words; allowed: 1 to {self.longest}. "
                "Correct it, or raise `video.caption_head.longest`"
            )
        return torch.tensor(ids, dtype=torch.long)
