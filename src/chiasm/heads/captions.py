"""Captions: a small causal decoder that looks at states with every word it writes.

The decoder is transformers' GPT-2 with cross-attention, and its search is the library's own. Each
layer of it reads the states, and neither words nor prompt pass by them, so that no word can be
written from the words before it alone unless the weights have learned to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.layers.attention.rows import log_weights

PADDING = 0
"""Id that fills rows; no caption holds it."""


class CaptionHeadConfig(Config):
    """A decoder of captions.

    Attributes:
        width: Width of the decoder.
        heads: Attention heads; they divide the width.
        layers: Layers, each with attention to earlier words and to the states.
        longest: Most tokens of a prompt and its caption together.
        dropout: Share of what each layer adds that is left out in training.
    """

    width: int = Field(default=256, ge=1)
    heads: int = Field(default=4, ge=1)
    layers: int = Field(default=2, ge=1)
    longest: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _divides(self) -> CaptionHeadConfig:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide the width {self.width}")
        return self

    def build(self, *, width: int, tokens: int) -> CaptionHead:
        """Build the head for states of a width and a vocabulary of so many ids."""
        return CaptionHead(
            width=width,
            tokens=tokens,
            inner=self.width,
            heads=self.heads,
            layers=self.layers,
            longest=self.longest,
            dropout=self.dropout,
        )


@dataclass(frozen=True)
class Caption:
    """What was written about one row of states.

    Attributes:
        tokens: Ids of the vocabulary.
        finished: Whether the decoder ended it; False where the limit did.
        score: Mean log probability in nats of its tokens, its end included where it has one.
    """

    tokens: tuple[int, ...]
    finished: bool
    score: float


class CaptionHead(nn.Module):
    """Writes captions. The marks of begin and end are its own, two ids after the vocabulary's.

    Args:
        width: Width D of the states.
        tokens: Ids of the vocabulary, `PADDING` among them.
        inner: Width of the decoder.
        heads: As in the configuration.
        layers: As in the configuration.
        longest: As in the configuration.
        dropout: As in the configuration.
    """

    def __init__(
        self,
        *,
        width: int,
        tokens: int,
        inner: int,
        heads: int,
        layers: int,
        longest: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.begin, self.end = tokens, tokens + 1
        self.longest = longest
        self.project = nn.Linear(width, inner)
        self.norm = nn.LayerNorm(inner)
        self.decoder = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=tokens + 2,
                # One more for the mark of the beginning.
                n_positions=longest + 1,
                n_embd=inner,
                n_layer=layers,
                n_head=heads,
                add_cross_attention=True,
                tie_word_embeddings=False,
                bos_token_id=self.begin,
                eos_token_id=self.end,
                pad_token_id=PADDING,
                resid_pdrop=dropout,
                embd_pdrop=dropout,
                attn_pdrop=dropout,
            )
        )

    def predict(
        self,
        states: Tensor,
        mask: Tensor,
        captions: Sequence[Tensor],
        *,
        prompts: Sequence[Tensor] | None = None,
        sizes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Score captions that are known, each token given the ones before it and the states.

        Args:
            states: float (B, N, D).
            mask: bool (B, N), True for a real state.
            captions: For each row int64 (n,), ids of the vocabulary; the end is added here.
            prompts: For each row int64 (m,), what the caption answers; None for nothing.
            sizes: float or int (B, N), how many states each stands for; None for one each. Their
                logarithm is added to the scores (Bolya et al., 2023, arXiv:2210.09461, eq. 1).

        Returns:
            float32 (P, tokens + 2), scores of what follows, and int64 (P,), what does follow: row
            by row each caption and its end.

        Raises:
            InputError: Captions or prompts are not one a row, are too long, or hold other ids.
        """
        asked = self._asked(prompts, len(states))
        written = [self._check(caption, "caption", row) for row, caption in enumerate(captions)]
        if len(written) != len(states):
            raise InputError(f"{len(written)} captions for {len(states)} rows of states")
        rows = []
        for row, (prompt, caption) in enumerate(zip(asked, written, strict=True)):
            self._check_length(len(prompt) + len(caption), row)
            rows.append(torch.cat([prompt, prompt.new_tensor([self.begin]), caption]))
        ids, real = _stack(rows, left=False)
        found = self.decoder(
            input_ids=ids,
            attention_mask=real.long(),
            use_cache=False,
            **self._seen(states, mask, sizes),
        ).logits
        starts = torch.tensor([len(prompt) for prompt in asked], device=ids.device)
        told = real & (torch.arange(ids.shape[1], device=ids.device) >= starts[:, None])
        targets = [torch.cat([own, own.new_tensor([self.end])]) for own in written]
        return found[told].float(), torch.cat(targets)

    @torch.no_grad()
    def write(
        self,
        states: Tensor,
        mask: Tensor,
        *,
        limit: int,
        prompts: Sequence[Tensor] | None = None,
        sizes: Tensor | None = None,
        beams: int = 1,
        length_penalty: float = 1.0,
        never: Sequence[int] = (),
    ) -> list[Caption]:
        """Write a caption for each row.

        Args:
            states: float (B, N, D).
            mask: bool (B, N), True for a real state.
            limit: Most tokens of a caption, its end not counted.
            prompts: As in `predict`.
            sizes: As in `predict`.
            beams: 1 takes the likeliest token each time; more keep so many captions at once.
            length_penalty: With beams, the power of the length that sums of log probabilities are
                divided by.
            never: Ids of the vocabulary that no caption holds, beside `PADDING`.

        Raises:
            InputError: A number is out of range, or a prompt leaves no room for `limit` tokens.
        """
        check_search(limit, beams)
        asked = self._asked(prompts, len(states))
        for row, prompt in enumerate(asked):
            self._check_length(len(prompt) + limit, row)
        begun = [torch.cat([prompt, prompt.new_tensor([self.begin])]) for prompt in asked]
        ids, real = _stack(begun, left=True)
        settings = GenerationConfig(
            # One more, so that a caption of exactly the limit can still be seen to end.
            max_new_tokens=limit + 1,
            num_beams=beams,
            length_penalty=length_penalty if beams > 1 else None,
            early_stopping=False if beams > 1 else None,
            do_sample=False,
            use_cache=True,
            bos_token_id=self.begin,
            eos_token_id=self.end,
            pad_token_id=PADDING,
            suppress_tokens=[PADDING, self.begin, *never],
        )
        sequences = self.decoder.generate(
            input_ids=ids,
            attention_mask=real.long(),
            generation_config=settings,
            **self._seen(states, mask, sizes),
        )
        written = sequences[:, ids.shape[1] :]
        return self._read(written, limit, states, mask, prompts=asked, sizes=sizes)

    def _read(
        self, sequences: Tensor, limit: int, states: Tensor, mask: Tensor, **given: Any
    ) -> list[Caption]:
        """Cut sequences (B, n) at their ends or the limit, and score them."""
        found: list[tuple[list[int], bool]] = []
        for row in sequences.tolist():
            ends = row.index(self.end) if self.end in row else None
            found.append((row[: limit if ends is None else ends], ends is not None))
        written = [torch.tensor(tokens, dtype=torch.long) for tokens, _ in found]
        logits, targets = self.predict(
            states, mask, [own.to(states.device) for own in written], **given
        )
        each = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
        captions = []
        for own, (tokens, ended) in zip(
            each.split([len(w) + 1 for w in written]), found, strict=True
        ):
            counted = own if ended else own[:-1]
            captions.append(Caption(tuple(tokens), ended, float(counted.mean())))
        return captions

    def _seen(self, states: Tensor, mask: Tensor, sizes: Tensor | None) -> dict[str, Tensor]:
        """Return what the decoder's attention to the states is given."""
        if mask.shape != states.shape[:2] or (sizes is not None and sizes.shape != mask.shape):
            raise InputError(
                f"caption head: states {tuple(states.shape)}, mask {tuple(mask.shape)}, sizes "
                f"{None if sizes is None else tuple(sizes.shape)}; give one entry a state"
            )
        if not bool(mask.any(1).all()):
            row = int((~mask.any(1)).nonzero()[0, 0])
            raise InputError(f"caption head: row {row} has no state; there is nothing to describe")
        read = self.norm(self.project(states.to(self.project.weight.dtype)))
        weights = mask.float() if sizes is None else sizes.float().masked_fill(~mask, 0.0)
        bias = log_weights(weights)
        assert bias is not None
        return {
            "encoder_hidden_states": read,
            "encoder_attention_mask": bias.to(read.dtype)[:, None, None, :],
        }

    def _asked(self, prompts: Sequence[Tensor] | None, rows: int) -> list[Tensor]:
        if prompts is None:
            device = self.project.weight.device
            return [torch.zeros(0, dtype=torch.long, device=device) for _ in range(rows)]
        if len(prompts) != rows:
            raise InputError(f"{len(prompts)} prompts for {rows} rows of states; give one a row")
        return [self._check(prompt, "prompt", row) for row, prompt in enumerate(prompts)]

    def _check(self, ids: Tensor, what: str, row: int) -> Tensor:
        if len(ids) and not (int(ids.min()) > PADDING and int(ids.max()) < self.tokens):
            raise InputError(
                f"the {what} of row {row} holds ids from {int(ids.min())} to {int(ids.max())}; "
                f"allowed: {PADDING + 1} to {self.tokens - 1}"
            )
        return ids

    def _check_length(self, length: int, row: int) -> None:
        if length > self.longest:
            raise InputError(
                f"row {row}: {length} tokens of prompt and caption, the head reads "
                f"{self.longest}; shorten them, or build it with a larger `longest`"
            )


def check_search(limit: int, beams: int) -> None:
    """Check the numbers of `CaptionHead.write`.

    Raises:
        InputError: One is no whole number, or below 1.
    """
    if not all(isinstance(number, int) and number >= 1 for number in (limit, beams)):
        raise InputError(
            f"limit={limit!r}, beams={beams!r}; both must be whole numbers of at least 1"
        )


def _stack(rows: Sequence[Tensor], *, left: bool) -> tuple[Tensor, Tensor]:
    """Pad rows with PADDING on one side: ids int64 (B, n), and bool (B, n), True for a real one."""
    side = "left" if left else "right"
    ids = nn.utils.rnn.pad_sequence(
        list(rows), batch_first=True, padding_value=PADDING, padding_side=side
    )
    lengths = torch.tensor([len(row) for row in rows], device=ids.device)[:, None]
    places = torch.arange(ids.shape[1], device=ids.device)
    return ids, places >= ids.shape[1] - lengths if left else places < lengths
