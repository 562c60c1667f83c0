"""From a sample to an answer, in the steps that a session keeps and a server repeats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from chiasm.core.batch import Batch
from chiasm.core.errors import InputError
from chiasm.core.protocols import Fused, Fusion
from chiasm.core.samples import Sample
from chiasm.data.collate import Collator
from chiasm.fusion.gated import GatedFusion
from chiasm.inference.answers import Answer, Finish
from chiasm.inference.streaming import TextStream
from chiasm.language.host import Host
from chiasm.language.splice import Spliced
from chiasm.models.gate_report import GateReport, read_gate
from chiasm.models.probes import probing


class Answering(Protocol):
    """A model that looks at images and answers in text: it has the sense `ask`."""

    @property
    def senses(self) -> frozenset[str]:
        """Keys of `inference.senses.SENSES`."""
        ...

    @property
    def host(self) -> Host:
        """The language model that answers."""
        ...

    @property
    def encoders(self) -> nn.ModuleDict:
        """The extra encoders by name."""
        ...

    @property
    def fusion(self) -> Fusion | None:
        """What makes one stream of host and extra encoders."""
        ...

    @property
    def collator(self) -> Collator:
        """Turns samples into batches."""
        ...

    def see(self, batch: Batch) -> tuple[Fused, Any]:
        """Encode and fuse the images of a batch; also return what the host's family adds."""
        ...


@dataclass(frozen=True)
class Generation:
    """How an answer is written; see `language.generation.generate`.

    Attributes:
        max_new_tokens: At most this many tokens.
        temperature: 0 takes the likeliest token, above 0 samples.
        top_p: With sampling, the share of probability that is kept.
        stop: Texts that end the answer; they stay in it.
        seed: Of the sampling; each answer is then the same alone and among others, beyond rounding.
            None goes on with torch's own numbers.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Sight:
    """What a model made of the images of a batch: the part of the work that no question changes.

    Attributes:
        fused: The fused tokens, with the gate in `named`.
        extras: What the host's family adds to them.
    """

    fused: Fused
    extras: Any


def look(model: Answering, batch: Batch) -> Sight | None:
    """Encode and fuse the images of a batch; None where it has none."""
    if not batch.geometries:
        return None
    with probing(cast("nn.Module", model)):
        return Sight(*model.see(batch))


def splice(model: Answering, batch: Batch, sight: Sight | None) -> Spliced:
    """Write what was seen over the placeholders of a batch."""
    if sight is None:
        return model.host.splice(batch, None)
    fused = sight.fused
    return model.host.splice(batch, fused.tokens, sight.extras, fused.tokens_per_cell)


def respond(
    model: Answering,
    batch: Batch,
    sight: Sight | None,
    generation: Generation,
    on_text: Callable[[str], None] | None = None,
) -> list[Answer]:
    """Answer each row of a batch.

    Args:
        model: The model.
        batch: Collated for generation.
        sight: What `look` returned for the batch's images.
        generation: How to write.
        on_text: Receives the answer piece by piece as it is written; for batches of one row. What
            it raises ends the writing.

    Raises:
        InputError: A setting is out of range, or several rows are to be followed.
    """
    with probing(cast("nn.Module", model)):
        answers = write_rows(model.host, splice(model, batch, sight), generation, on_text)
    reported = []
    for row, answer in enumerate(answers):
        images = (batch.image_rows == row).nonzero().flatten()
        report = read_report(model, batch, sight, images)
        views = tuple(batch.geometries[index].view_box() for index in images.tolist())
        reported.append(replace(answer, report=report, views=views))
    return reported


def write_rows(
    host: Host,
    spliced: Spliced,
    generation: Generation,
    on_text: Callable[[str], None] | None = None,
) -> list[Answer]:
    """Write what follows each row; arguments and errors as for `respond`."""
    if on_text is not None and len(spliced.input_ids) != 1:
        raise InputError(
            f"{len(spliced.input_ids)} answers cannot be followed at once; ask one question"
        )
    stream = on_text and TextStream(host.tokenizer, {*host.eos_ids, host.pad_id}, on_text)
    rows = host.generate(
        spliced,
        max_new_tokens=generation.max_new_tokens,
        temperature=generation.temperature,
        top_p=generation.top_p,
        stop=generation.stop,
        seed=generation.seed,
        on_tokens=stream,
    )
    if stream is not None:
        stream.finish()
    answers = []
    for tokens, length in zip(rows, spliced.attention_mask.sum(1).tolist(), strict=True):
        text = host.tokenizer.decode(tokens, skip_special_tokens=True)
        answers.append(
            Answer(
                text=text,
                finish=_finish(text, len(tokens), generation),
                prompt_tokens=length,
                new_tokens=len(tokens),
                tokens=tuple(tokens),
            )
        )
    return answers


def respond_to(
    model: Answering,
    samples: Sequence[Sample],
    generation: Generation,
    on_text: Callable[[str], None] | None = None,
) -> list[Answer]:
    """Answer the last user turn of each sample; `on_text` as in `respond`.

    Raises:
        DataError: A sample is malformed, or too long for the model's collator.
        InputError: The collator left out rows that are too long.
    """
    batch = model.collator.collate(samples, generation=True).to(model.host.device)
    if len(batch) != len(samples):
        raise InputError(
            f"{len(samples) - len(batch)} of {len(samples)} questions are longer than "
            f"{model.collator.max_length} tokens and were dropped; shorten them"
        )
    return respond(model, batch, look(model, batch), generation, on_text)


def read_report(
    model: Answering, batch: Batch, sight: Sight | None, images: Tensor
) -> GateReport | None:
    """Return the gate over some images of a batch; None without a gate or an image.

    Args:
        model: The model.
        batch: The batch.
        sight: What was seen of it.
        images: int64, indices of the images.
    """
    if sight is None or not len(images) or not isinstance(model.fusion, GatedFusion):
        return None
    named = {
        name: sight.fused.named[name][images.to(sight.fused.named[name].device)]
        for name in ("gate", "gate_map", "stream_norms")
    }
    return read_gate(model.fusion.names, named, [batch.geometries[i] for i in images.tolist()])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Sample as a seed says inside the context; outside, the generators go on as before."""
    # Named one by one, because the library warns when it is to find several devices itself.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def _finish(text: str, count: int, generation: Generation) -> Finish:
    stopped = any(word in text for word in generation.stop)
    return "stop" if stopped or count < generation.max_new_tokens else "length"
