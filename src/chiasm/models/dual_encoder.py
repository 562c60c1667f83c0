"""The dual encoder: a host that sees with further eyes and can say which it used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from chiasm.core.batch import Batch
from chiasm.core.errors import ConfigError, InputError
from chiasm.core.outputs import Outputs
from chiasm.core.protocols import Fused, Fusion
from chiasm.data.chat import read_messages
from chiasm.data.collate import Collator
from chiasm.encoders.protocol import Encoder, as_modules
from chiasm.fusion.gated import GatedFusion
from chiasm.heads.words import WordHead
from chiasm.language.host import Host
from chiasm.language.splice import Spliced
from chiasm.models.gate_report import GateReport, compare_streams, gated, read_gate
from chiasm.models.probes import build_probe_samples, probing


class DualEncoder(nn.Module):
    """A host with any number of extra encoders, fused into its visual tokens.

    The way of a batch:

    1. encode: the host's tower and each extra encoder read the images, one token a cell
    2. fuse: one stream out of all, in the host's width
    3. splice: the fused tokens take the places of the placeholders
    4. read: the host's language model reads text and tokens
    5. predict: scores where a label follows

    Without encoders and fusion it is the host alone.

    Args:
        host: The model that is extended.
        encoders: The extra encoders by name.
        fusion: Makes one stream of all; None exactly when there are no encoders.
        collator: Turns samples into batches, with the transforms of the same encoders.
        head: Scores the cells of the host's own tokens, for dense supervision of its tower.

    Raises:
        ConfigError: Encoders, fusion and collator do not belong together.
    """

    senses = frozenset({"ask", "image"})

    def __init__(
        self,
        *,
        host: Host,
        encoders: Mapping[str, Encoder],
        fusion: Fusion | None,
        collator: Collator,
        head: WordHead | None = None,
    ) -> None:
        super().__init__()
        if bool(encoders) != (fusion is not None):
            raise ConfigError(
                f"{len(encoders)} extra encoders with fusion {type(fusion).__name__}: give at "
                "least one encoder and a fusion, or neither"
            )
        if set(collator.transforms) != set(encoders):
            raise ConfigError(
                f"the collator prepares images for {sorted(collator.transforms) or 'none'}, the "
                f"encoders are {sorted(encoders) or 'none'}; give the collator their transforms"
            )
        self.host = host
        self.encoders = nn.ModuleDict(as_modules(encoders))
        self.fusion = fusion
        self.collator = collator
        self.head = head

    @property
    def parts(self) -> dict[str, nn.Module]:
        """`host_vision`, `host_projector`, `host_language`, `host_adapter`, `encoder.<name>`.

        And `fusion.projections`, `fusion.gate`, `fusion.output`, or `fusion` where it is one piece.
        """
        parts = {f"host_{name}": part for name, part in self.host.parts.items()}
        parts.update({f"encoder.{name}": part for name, part in self.encoders.items()})
        parts.update({} if self.head is None else {"head": self.head})
        if isinstance(self.fusion, GatedFusion):
            pieces = self.fusion.named_children()
            return {**parts, **{f"fusion.{name}": piece for name, piece in pieces}}
        return {**parts, "fusion": self.fusion} if isinstance(self.fusion, nn.Module) else parts

    @property
    def new_parts(self) -> frozenset[str]:
        """The fusion, the head, adapters, and encoders that no checkpoint holds."""
        fresh = {f"encoder.{name}" for name in self.encoders if not self._encoder(name).pretrained}
        added = {n for n in self.parts if n in ("host_adapter", "head") or n[:6] == "fusion"}
        return frozenset(fresh | added)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the model was built on: the host's identity and each encoder's."""
        encoders = {name: dict(self._encoder(name).identity) for name in self.encoders}
        return {"host": dict(self.host.identity), "encoders": encoders}

    def forward(self, batch: Batch) -> Outputs:
        """Score the supervised tokens of a batch.

        Returns:
            Logits and targets of the supervised positions, and what the fusion named.
        """
        spliced, named = self._look(batch)
        if not batch.supervised_tokens:
            return Outputs(named=named)
        hidden = self.host.read(spliced)
        logits, targets = self.host.supervised(spliced, hidden)
        return Outputs(logits=logits, targets=targets, named=named)

    def generate(self, batch: Batch, **generation: Any) -> list[str]:
        """Write an answer for each row of a batch collated for generation.

        Settings are those of `Host.generate`; `max_new_tokens` is 128 if not given.
        """
        spliced, _ = self._look(batch)
        tokens = self.host.generate(spliced, **{"max_new_tokens": 128, **generation})
        return [self.host.tokenizer.decode(row, skip_special_tokens=True) for row in tokens]

    def chat(self, messages: Sequence[Mapping[str, Any]], **generation: Any) -> str:
        """Answer a conversation in the OpenAI or Qwen form; settings as for `generate`.

        Raises:
            DataError: The messages are malformed or an image cannot be read.
        """
        with probing(self):
            return self.generate(self._ask(messages), **generation)[0]

    def gate_report(self, messages: Sequence[Mapping[str, Any]]) -> GateReport:
        """Say how the gate weighs the eyes for the images of a conversation.

        Raises:
            InputError: The model has no gate, or the conversation no image.
        """
        fusion = gated(self.fusion)
        batch = self._ask(messages)
        if not batch.geometries:
            raise InputError("the conversation has no image, so there is no gate to report")
        with probing(self):
            return read_gate(fusion.names, self.look(batch).named, batch.geometries)

    def compare(self, messages: Sequence[Mapping[str, Any]], **generation: Any) -> dict[str, str]:
        """Answer with the learned gate (`learned`), and with each stream alone, by its name.

        Raises:
            InputError: The model has no gate.
        """
        batch = self._ask(messages)
        with probing(self):
            return compare_streams(
                gated(self.fusion), lambda: self.generate(batch, **generation)[0]
            )

    def probe(self) -> Mapping[str, Tensor]:
        """Return the scores of the last supervised token of two fixed inputs: float32 (V,) each."""
        samples = build_probe_samples()
        with probing(self):
            batches = [self.collator.collate([sample]).to(self.host.device) for sample in samples]
            logits = [cast("Tensor", self(batch).logits)[-1].float() for batch in batches]
        return {sample.identifier: row for sample, row in zip(samples, logits, strict=True)}

    def _look(self, batch: Batch) -> tuple[Spliced, Mapping[str, Tensor]]:
        """Encode, fuse and splice."""
        if not batch.geometries:
            return self.host.splice(batch, None), {}
        fused, extras = self.see(batch)
        return self.host.splice(batch, fused.tokens, extras, fused.tokens_per_cell), fused.named

    def look(self, batch: Batch) -> Fused:
        """Encode and fuse the images of a batch, and stop there: tokens, gate, dense scores."""
        return self.see(batch)[0]

    def see(self, batch: Batch) -> tuple[Fused, Any]:
        """Encode and fuse; also return what the host's family adds, for `Host.splice`."""
        seen = self.host.encode(batch.host_images, batch.geometries)
        dense = {} if self.head is None else self.head.predict(seen.tokens)
        if self.fusion is None:
            return Fused(tokens=seen.tokens, named=dense), seen.extras
        extra = {
            name: self._encoder(name).encode(batch.encoder_images[name], batch.geometries)
            for name in self.encoders
        }
        fused = self.fusion.fuse(seen.tokens, extra)
        return replace(fused, named={**fused.named, **dense}), seen.extras

    def _ask(self, messages: Sequence[Mapping[str, Any]]) -> Batch:
        sample = read_messages(messages)
        return self.collator.collate([sample], generation=True).to(self.host.device)

    def _encoder(self, name: str) -> Encoder:
        return cast("Encoder", self.encoders[name])
