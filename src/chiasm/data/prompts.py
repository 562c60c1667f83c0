"""Conversations to token ids and labels, through the host's own chat template.

Labels come from template difference, never from a search for role markers: the conversation is
rendered up to before an assistant turn (with the generation prompt, which is exactly what the model
sees at inference) and up to after it; what the second has more than the first is what the model
has to write, the end-of-turn token included. White space that a template puts after the end of a
turn is not supervised.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from jinja2.exceptions import TemplateError
from tokenizers import processors
from torch import Tensor

from chiasm.core.batch import IGNORE
from chiasm.core.errors import DataError, InputError
from chiasm.core.samples import Sample, Turn
from chiasm.data.conversation import conversation_faults, name_of, raise_faults, shown
from chiasm.data.locating import phrase_faults, phrase_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]


@dataclass(frozen=True)
class Prompt:
    """One conversation as the host reads it.

    Attributes:
        input_ids: int64 (S,), each image written as one placeholder a visual token.
        labels: int64 (S,), the token where it is supervised, else `IGNORE`. Not shifted.
        image_spans: For each image of the sample, in order, [start, stop) of its placeholders in
            `input_ids`.
        text: The rendered text, each image still one placeholder.
        spans: For each token, [start, stop) in `text`; all tokens of an image share one,
            and a token that the template does not write has an empty one.
        phrases: For each phrase of the sample whose turn was rendered, by its index, the positions
            in `input_ids` of the tokens that say it, ascending; at least one.
    """

    input_ids: Tensor
    labels: Tensor
    image_spans: tuple[Span, ...]
    text: str
    spans: tuple[Span, ...]
    phrases: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.input_ids.shape[0])

    @property
    def supervised_tokens(self) -> int:
        """How many tokens carry a label."""
        return int((self.labels != IGNORE).sum())


class Prompter:
    """Renders samples through a tokenizer's chat template.

    A template that writes nothing after an assistant turn (LLaVA-1.5) gives the model nothing to
    stop at: then the tokenizer's end-of-sequence token is appended, and supervised, after a last
    assistant turn. A tokenizer that would add a beginning-of-sequence token which the template
    does not write gets it, as the host's own processor does.

    Args:
        tokenizer: A fast tokenizer with a chat template that reads lists of parts.
        image_token: The placeholder the template writes for an image: one special token.
        image_text: What that one placeholder becomes for an image of so many tokens: as many
            placeholders, with tokens that begin and end an image where the host has them
            (`Host.image_text`). By default the placeholders alone.

    Raises:
        InputError: The tokenizer has no chat template, no offsets, or does not know the
            placeholder as one token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_token: str,
        image_text: Callable[[int], str] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.image_token = image_token
        self._image_text = image_text
        self._image_ids: dict[int, list[int]] = {}
        if not tokenizer.is_fast:
            raise InputError(
                f"tokenizer {type(tokenizer).__name__} gives no character offsets, which labels "
                "need; load the fast tokenizer (tokenizer.json) of the host"
            )
        if not tokenizer.chat_template:
            raise InputError(
                "the tokenizer has no chat template; use an instruction-tuned host, or set "
                "tokenizer.chat_template"
            )
        ids = tokenizer(image_token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise InputError(
                f"image placeholder {image_token!r} is {len(ids)} tokens for this tokenizer; it "
                "must be one special token"
            )
        self.image_token_id: int = ids[0]
        special = {image_token} | {
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        }
        self._reserved = re.compile("|".join(map(re.escape, sorted(special, key=len)[::-1])))
        self._encoder = _with_whole_offsets(tokenizer)
        self._opening = self._opening_ids()
        self._closes_turns = self._template_closes_turns()

    @property
    def pad_id(self) -> int:
        """The id that fills short rows; masked, so any will do: padding, else end of sequence."""
        pad = self.tokenizer.pad_token_id
        found = self.tokenizer.eos_token_id if pad is None else pad
        return 0 if found is None else int(found)

    def token_spans(self, text: str) -> list[Span]:
        """Return [start, stop) in a text for each of its tokens, blanks included."""
        return self._encode_piece(text, 0)[1]

    def render(
        self, sample: Sample, token_counts: Sequence[int], add_generation_prompt: bool = False
    ) -> Prompt:
        """Render one sample.

        Args:
            sample: The conversation.
            token_counts: How many placeholders each image of the sample takes.
            add_generation_prompt: Leave out the assistant turn at the end, if there is one, write
                the template's prompt for it, and label nothing.

        Raises:
            DataError: The conversation is malformed, its text holds a special token, the template
                refuses it or is not prefix-stable, a phrase has no token, or there is nothing to
                learn: no supervised token, no dense labels, no phrase and no pair.
        """
        turns = _asking(sample.turns) if add_generation_prompt else sample.turns
        self._verify(sample, turns, token_counts)
        text, answers = self._render_text(sample, turns, add_generation_prompt)
        closing = not add_generation_prompt and turns[-1].role == "assistant"
        if closing := closing and not self._closes_turns:
            text = text[: answers[-1][1]]
        ids, spans = self._encode(text, answers)
        supervised = [
            span
            for span, turn in zip(answers, _assistants(turns), strict=True)
            if turn.supervised and not add_generation_prompt
        ]
        labels = _labels(ids, spans, supervised)
        if closing:
            ids.append(self._end_id())
            labels.append(ids[-1] if turns[-1].supervised else IGNORE)
            spans.append((len(text), len(text)))
        prompt = self._expand(sample, ids, labels, spans, token_counts, text)
        if sample.phrases:
            words = prompt.input_ids.ne(self.image_token_id).tolist()
            apply = partial(self._apply, sample, generation=add_generation_prompt)
            found = phrase_tokens(sample, turns, text, prompt.spans, words, apply)
            prompt = replace(prompt, phrases=found)
        # Dense labels, phrases and pairs teach without a word.
        wordless = sample.truth.get("cells") or sample.phrases or sample.pair
        teaches = prompt.supervised_tokens or wordless
        if not teaches and not add_generation_prompt:
            raise DataError(
                f"{name_of(sample)}: no supervised token, so nothing to learn; add an assistant "
                "turn, or mark one as supervised"
            )
        return prompt

    def _verify(self, sample: Sample, turns: Sequence[Turn], counts: Sequence[int]) -> None:
        faults = conversation_faults(turns, len(sample.images), name_of(sample))
        raise_faults(name_of(sample), [*faults, *phrase_faults(sample)])
        if len(counts) != len(sample.images) or any(count < 1 for count in counts):
            raise DataError(
                f"{name_of(sample)}: token counts {list(counts)} for {len(sample.images)} images; "
                "give one positive count an image"
            )
        for index, turn in enumerate(turns):
            # Joined with a character no token holds, so that pieces cannot form a token together.
            text = "".join(part if isinstance(part, str) else "\0" for part in turn.parts)
            if found := self._reserved.search(text):
                raise DataError(
                    f"{name_of(sample)}: the {turn.role} text of turn {index} holds "
                    f"{found.group()!r}, a special token of the host, in "
                    f"{shown(text[max(0, found.start() - 20) : found.end() + 20])}; remove it or "
                    "spell it differently"
                )

    def _apply(self, sample: Sample, turns: Sequence[Turn], generation: bool) -> str:
        messages = [{"role": turn.role, "content": _content(turn)} for turn in turns]
        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation
            )
        except TemplateError as error:
            raise DataError(
                f"{name_of(sample)}: the host's chat template refuses the conversation with roles "
                f"{[turn.role for turn in turns]}: {error}"
            ) from error

    def _render_text(
        self, sample: Sample, turns: Sequence[Turn], generation: bool
    ) -> tuple[str, list[Span]]:
        """Return the whole text, and for each assistant turn the span of what the model writes."""
        text = self._apply(sample, turns, generation)
        answers: list[Span] = []
        for index, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            last = index + 1 == len(turns)
            before = self._apply(sample, turns[:index], True)
            after = (text if last else self._apply(sample, turns[: index + 1], False)).rstrip()
            if not (text.startswith(before) and text.startswith(after)) or len(after) <= len(
                before
            ):
                raise DataError(
                    f"{name_of(sample)}: the host's chat template is not prefix-stable: turn "
                    f"{index} is written differently once other turns follow, or its generation "
                    f"prompt {shown(before[-40:])} is not how the turn begins. The answer cannot "
                    "be told from the rest; use a template that writes each turn the same way"
                )
            answers.append((len(before), len(after)))
        return text, answers

    def _encode(self, text: str, answers: Sequence[Span]) -> tuple[list[int], list[Span]]:
        """Tokenize; where a token would straddle the border of an answer, cut there.

        At inference the prompt ends at such a border, so the cut gives the ids that the model will
        really see.
        """
        ids, spans = self._encode_piece(text, 0)
        borders = sorted({border for span in answers for border in span})
        starts = {start for start, _ in spans}
        # A border is clean when a token starts there, or when no token covers it.
        cuts = [
            border
            for border in borders
            if border not in starts and any(a < border < b for a, b in spans)
        ]
        if cuts:
            edges = [0, *cuts, len(text)]
            pieces = [self._encode_piece(text[a:b], a) for a, b in itertools.pairwise(edges)]
            ids = [token for piece, _ in pieces for token in piece]
            spans = [span for _, piece in pieces for span in piece]
        if self._opening and not text.startswith(self.tokenizer.bos_token or "\0"):
            ids = [*self._opening, *ids]
            spans = [*((0, 0) for _ in self._opening), *spans]
        return ids, spans

    def _encode_piece(self, text: str, offset: int) -> tuple[list[int], list[Span]]:
        encoded = self._encoder(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = [(a + offset, b + offset) for a, b in encoded["offset_mapping"]]
        return list(encoded["input_ids"]), spans

    def _expand(
        self,
        sample: Sample,
        ids: Sequence[int],
        labels: Sequence[int],
        spans: Sequence[Span],
        counts: Sequence[int],
        text: str,
    ) -> Prompt:
        found = sum(token == self.image_token_id for token in ids)
        if found != len(counts):
            raise DataError(
                f"{name_of(sample)}: the host's chat template wrote {found} placeholders "
                f"{self.image_token!r} for {len(counts)} images; it must write one an image"
            )
        waiting = iter(counts)
        all_ids: list[int] = []
        all_labels: list[int] = []
        all_spans: list[Span] = []
        images: list[Span] = []
        for token, label, span in zip(ids, labels, spans, strict=True):
            written = [token]
            if token == self.image_token_id:
                count = next(waiting)
                written = self._ids_of_image(count)
                start = len(all_ids) + written.index(token)
                images.append((start, start + count))
            all_ids += written
            all_labels += [IGNORE] * len(written) if label == IGNORE else written
            all_spans += [span] * len(written)
        return Prompt(
            input_ids=torch.tensor(all_ids, dtype=torch.long),
            labels=torch.tensor(all_labels, dtype=torch.long),
            image_spans=tuple(images),
            text=text,
            spans=tuple(all_spans),
        )

    def _ids_of_image(self, count: int) -> list[int]:
        """Return the ids of an image of `count` tokens, begin and end of the image included."""
        if count not in self._image_ids:
            text = self._image_text(count) if self._image_text else self.image_token * count
            ids = self._encode_piece(text, 0)[0]
            places = [index for index, token in enumerate(ids) if token == self.image_token_id]
            if not places or places != list(range(places[0], places[0] + count)):
                raise InputError(
                    f"an image of {count} tokens is written as {shown(text[:40])}, which is "
                    f"{len(places)} placeholders {self.image_token!r} for this tokenizer; it must "
                    f"be {count} in a row. The tokenizer does not fit the host"
                )
            self._image_ids[count] = ids
        return self._image_ids[count]

    def _opening_ids(self) -> list[int]:
        """Ids that the tokenizer puts before a text on its own: the beginning of sequence."""
        plain = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = self.tokenizer("a", add_special_tokens=True)["input_ids"]
        places = range(len(whole) - len(plain) + 1)
        start = next((i for i in places if whole[i : i + len(plain)] == plain), 0)
        return list(whole[:start])

    def closing_ids(self) -> list[int]:
        """Return the ids that follow the text of a last assistant turn in a rendered sample."""
        if not self._closes_turns:
            return [self._end_id()]
        text = self._probe_text()
        return self._encode_piece(text[text.rindex("b") + 1 :], 0)[0]

    def _template_closes_turns(self) -> bool:
        return not self._probe_text().rstrip().endswith("b")

    def _probe_text(self) -> str:
        turns = (Turn("user", ("a",)), Turn("assistant", ("b",)))
        return self._apply(Sample("probe of the chat template", turns), turns, False)

    def _end_id(self) -> int:
        if self.tokenizer.eos_token_id is None:
            raise InputError(
                "the chat template writes nothing after an assistant turn and the tokenizer has "
                "no end-of-sequence token, so the model could never stop; set tokenizer.eos_token"
            )
        return int(self.tokenizer.eos_token_id)


def _with_whole_offsets(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return the tokenizer, or a copy of it that counts blanks to the tokens they are part of.

    Some byte-level tokenizers leave blanks out of a token's offsets; then a token that reaches over
    the border of an answer could not be seen. The trimming is a step after tokenization and changes
    no id.
    """
    if "trim_offsets=True" not in str(tokenizer.backend_tokenizer.post_processor):
        return tokenizer
    whole = copy.deepcopy(tokenizer)
    whole.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return whole


def _asking(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    return turns[:-1] if turns and turns[-1].role == "assistant" else turns


def _assistants(turns: Sequence[Turn]) -> list[Turn]:
    return [turn for turn in turns if turn.role == "assistant"]


def _content(turn: Turn) -> list[dict[str, str]]:
    return [
        {"type": "image"} if isinstance(part, int) else {"type": "text", "text": part}
        for part in turn.parts
    ]


def _labels(ids: Sequence[int], spans: Sequence[Span], supervised: Sequence[Span]) -> list[int]:
    labels = [IGNORE] * len(ids)
    for start, stop in supervised:
        for index, (first, last) in enumerate(spans):
            if start <= first < stop and last > first:
                labels[index] = ids[index]
    return labels
