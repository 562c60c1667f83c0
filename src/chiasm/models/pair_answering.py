"""Text and pictures out of a model of pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from chiasm.core.batch import Batch, PairBatch
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs
from chiasm.core.protocols import Collate
from chiasm.data.collate import Collator
from chiasm.fusion.pair_views import draw_on_image
from chiasm.language.host import Host
from chiasm.language.splice import Spliced
from chiasm.models.drawing import Drawing
from chiasm.models.pair_results import Completed, PairView
from chiasm.models.probes import build_pair_probe_samples


class ReadsPairs(Protocol):
    """What is needed of a model of pairs."""

    host: Host
    drawing: Drawing | None
    collator: Collator
    scored: frozenset[str]

    def see(self, batch: Batch) -> PairView:
        """Blend, encode and fuse."""
        ...


def pairs_of(batch: Batch) -> PairBatch:
    """Return the pairs of a batch.

    Raises:
        InputError: It has none.
    """
    if batch.pairs is None:
        raise InputError(
            "the batch has no pairs; give samples with `pair`, such as those of the pair format or "
            "of the world `occluded`"
        )
    return batch.pairs


def splice_pairs(model: ReadsPairs, batch: Batch, view: PairView, left: bool = True) -> Spliced:
    """Return the rows that text is read from or written after.

    Where training had the codes of what was read before the text, they are there too.

    Args:
        model: In evaluation mode.
        batch: The batch.
        view: What the model made of its pairs.
        left: Whether rows are filled on the left, as for generation.
    """
    spliced = model.host.splice(batch, view.fused.tokens, view.extras)
    drawing = model.drawing
    if drawing is not None and drawing.before_text and "codes" in model.scored:
        spliced = drawing.write_read(spliced, view.blended, left=left).spliced
    return spliced


def write_answers(
    model: ReadsPairs, batch: Batch, view: PairView, generation: Mapping[str, Any]
) -> list[list[int]]:
    """Write an answer for each row, as tokens.

    Args:
        model: In evaluation mode.
        batch: Collated for generation.
        view: What the model made of its pairs.
        generation: Settings of `Host.generate`; `max_new_tokens` is 128 if not given.
    """
    spliced = splice_pairs(model, batch, view)
    return model.host.generate(spliced, **{"max_new_tokens": 128, **generation})


def complete_pairs(
    model: ReadsPairs,
    batch: Batch,
    texts: Sequence[str | Sequence[int]] | None,
    *,
    view: PairView | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    guidance: float = 1.0,
    seed: int | None = None,
    **generation: Any,
) -> list[Completed]:
    """Answer, and draw the complete picture after the answer; see `Occlusion.complete`.

    A text may also be given as its tokens, and `view` is what `see` made of the batch: what is
    given is not made again.

    Raises:
        InputError: The model has no generation branch, or a setting is out of range.
    """
    if model.drawing is None:
        raise InputError(
            "this model has no generation branch, so it draws nothing; ask it, or use a model "
            "whose recipe has one"
        )
    # Before the answer is written, which takes longer.
    model.drawing.check(temperature=temperature, top_k=top_k, guidance=guidance, seed=seed)
    host, tokenizer = model.host, model.host.tokenizer
    view = view or model.see(batch)
    given = write_answers(model, batch, view, generation) if texts is None else texts
    answers = [
        tokenizer(text, add_special_tokens=False)["input_ids"] if isinstance(text, str) else text
        for text in given
    ]
    written = [
        text if isinstance(text, str) else tokenizer.decode(text, skip_special_tokens=True)
        for text in given
    ]
    closing = model.collator.prompter.closing_ids()
    codes = model.drawing.draw(
        host.splice(batch, view.fused.tokens, view.extras),
        view.blended,
        [[*answer, *closing] for answer in answers],
        temperature=temperature,
        top_k=top_k,
        guidance=guidance,
        seed=seed,
    )
    pictures = model.drawing.codebook.decode(codes)
    return [
        Completed(text, draw_on_image(picture, geometry), own.cpu())
        for text, picture, geometry, own in zip(
            written, pictures, batch.geometries, codes, strict=True
        )
    ]


def probe_pairs(
    model: Callable[[Batch], Outputs], collate: Collate, device: torch.device
) -> dict[str, Tensor]:
    """Return scores of two fixed pairs, float32: of the last text token, and of the first code."""
    found: dict[str, Tensor] = {}
    for sample in build_pair_probe_samples():
        outputs = model(collate([sample]).to(device))
        if outputs.logits is not None:
            found[sample.identifier] = outputs.logits[-1].float()
        if "codes.logits" in outputs.named:
            found[f"{sample.identifier}.codes"] = outputs.named["codes.logits"][0, 0].float()
    return found
