"""What a model that points reads of a batch: of the host's attention, or of its words alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chiasm.core.batch import Batch
from chiasm.language.phrase_maps import PhraseReading, phrase_words, read_phrases

if TYPE_CHECKING:
    from chiasm.models.grounding import Grounding


def read_batch(model: Grounding, batch: Batch) -> PhraseReading:
    """Read what the heads need of a batch: the host reads only where maps or states are wanted.

    Raises:
        InputError: The batch has no phrase, or one has no token.
    """
    if not (model.masks.wants_maps or model.masks.wants_states):
        return PhraseReading([], [], phrase_words(model.host, batch))
    fused, extras = model.base.see(batch)
    return read_phrases(
        model.host,
        batch,
        model.host.splice(batch, fused.tokens, extras, fused.tokens_per_cell),
        fused.tokens_per_cell,
        tokens=fused.tokens,
        merge=model.merge,
        hidden=model.masks.wants_states,
    )
