"""Prompts: what is rendered, which tokens are supervised, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from chiasm.core.batch import IGNORE
from chiasm.core.errors import DataError, InputError
from chiasm.core.samples import Sample, Turn
from chiasm.data.prompts import Prompt, Prompter
from tests.tiny import LLAVA_TEMPLATE, QWEN_TEMPLATE, SPECIAL_TOKENS, picture, tiny_tokenizer

IMAGE = "<|image_pad|>"
PARTS = (
    "{%- for part in message['content'] -%}{%- if part['type'] == 'image' -%}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else -%}{{ part['text'] TRIM }}{%- endif -%}{%- endfor -%}"
)
DEFAULT_SYSTEM = (
    "{%- if messages[0]['role'] != 'system' -%}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}"
    "{%- endif -%}"
)
TURNS = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message['role'] + '\n' }}PARTS"
    "{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
# As LLaVA-1.5 writes it: images first, nothing after an answer but a blank.
BARE = (
    "{%- for message in messages -%}{{ message['role'].upper() + ': ' }}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}{{ '<image>\n' }}"
    "{%- endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] + ' ' }}"
    "{%- endfor -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)
TRIMMED = DEFAULT_SYSTEM + TURNS.replace("PARTS", PARTS.replace("TRIM", "| trim"))


def prompter(template: str = QWEN_TEMPLATE, image: str = IMAGE) -> Prompter:
    return Prompter(tiny_tokenizer(template), image)


def dialogue(*texts: str, images: int = 0, supervised: bool = True) -> Sample:
    """User and assistant in alternation; the images open the first turn."""
    turns = []
    for index, text in enumerate(texts):
        if index % 2:
            turns.append(Turn("assistant", (text,), supervised))
        else:
            turns.append(Turn("user", (*range(images if index == 0 else 0), text)))
    return Sample("s", tuple(turns), tuple(picture(5, 7) for _ in range(images)), origin="f.json:3")


def supervised_runs(prompter: Prompter, prompt: Prompt) -> list[str]:
    """The text of each run of supervised tokens."""
    runs: list[list[int]] = []
    previous = False
    for label in prompt.labels.tolist():
        if label != IGNORE:
            if not previous:
                runs.append([])
            runs[-1].append(label)
        previous = label != IGNORE
    return [prompter.tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("template", [QWEN_TEMPLATE, TRIMMED], ids=["qwen", "default-system"])
def test_exactly_the_answers_and_their_ends_are_supervised(template: str) -> None:
    made = prompter(template)
    prompt = made.render(dialogue("What?", "Red.", "And this?", "Blue.", images=1), [11])
    assert supervised_runs(made, prompt) == ["Red.<|im_end|>", "Blue.<|im_end|>"]
    kept = prompt.labels != IGNORE
    assert torch.equal(prompt.labels[kept], prompt.input_ids[kept])


def test_a_template_that_trims_trims_the_labels() -> None:
    made = prompter(TRIMMED)
    prompt = made.render(dialogue("  What? ", "\n Red. \n"), [])
    assert supervised_runs(made, prompt) == ["Red.<|im_end|>"]
    untrimmed = prompter()
    prompt = untrimmed.render(dialogue("  What? ", "\n Red. \n"), [])
    assert supervised_runs(untrimmed, prompt) == ["\n Red. \n<|im_end|>"]


def test_answers_that_repeat_role_markers_in_words_are_told_apart() -> None:
    made = prompter()
    prompt = made.render(dialogue("assistant\n", "assistant\n", "user", "assistant"), [])
    assert supervised_runs(made, prompt) == ["assistant\n<|im_end|>", "assistant<|im_end|>"]


def test_a_template_without_an_end_gets_one_after_the_last_answer_only() -> None:
    made = prompter(BARE, "<image>")
    prompt = made.render(dialogue("What?", "Red.", "And?", "Blue.", images=1), [3])
    assert supervised_runs(made, prompt) == [" Red.", " Blue.<|im_end|>"]
    assert prompt.text.endswith("ASSISTANT: Blue.")
    turns = (Turn("user", ("a",)), Turn("assistant", ("b",), True), Turn("user", ("c",)))
    open_end = made.render(Sample("s", turns), [])
    assert open_end.input_ids[-1] != made.tokenizer.eos_token_id


def test_turns_that_are_not_supervised_carry_no_label() -> None:
    turns = (
        Turn("system", ("Be brief.",)),
        Turn("user", ("What?",)),
        Turn("assistant", ("Red.",)),
        Turn("user", ("And?",)),
        Turn("assistant", ("Blue.",), True),
    )
    made = prompter()
    assert supervised_runs(made, made.render(Sample("s", turns), [])) == ["Blue.<|im_end|>"]


def test_each_image_takes_its_own_count_and_no_label() -> None:
    made = prompter()
    sample = Sample(
        "s",
        (
            Turn("user", ("A", 0, "B", 1)),
            Turn("assistant", ("C",), True),
            Turn("user", (2,)),
            Turn("assistant", ("D",), True),
        ),
        (picture(3, 3),) * 3,
    )
    prompt = made.render(sample, [5, 2, 7])
    assert [stop - start for start, stop in prompt.image_spans] == [5, 2, 7]
    for start, stop in prompt.image_spans:
        assert prompt.input_ids[start:stop].eq(made.image_token_id).all()
        assert prompt.labels[start:stop].eq(IGNORE).all()
    assert int(prompt.input_ids.eq(made.image_token_id).sum()) == 14
    assert len(prompt.spans) == len(prompt) == len(prompt.labels)


def test_ids_equal_the_librarys_for_the_expanded_text() -> None:
    made = prompter()
    sample = dialogue("What\tis «this»?", "Ein Käse 🧀.", images=2)
    prompt = made.render(sample, [5, 3])
    first, second, third = prompt.text.split(IMAGE)
    expanded = first + IMAGE * 5 + second + IMAGE * 3 + third
    assert prompt.input_ids.tolist() == made.tokenizer(expanded)["input_ids"]


TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20).filter(
    lambda text: text.strip() and not any(token in text for token in SPECIAL_TOKENS)
)


@settings(max_examples=60, deadline=None)
@given(texts=st.tuples(TEXT, TEXT, TEXT, TEXT), template=st.sampled_from(["qwen", "bare"]))
def test_training_begins_with_what_inference_sees(
    texts: tuple[str, str, str, str], template: str
) -> None:
    made = MERGING[template]
    sample = dialogue(*texts, images=1)
    whole, asked = made.render(sample, [3]), made.render(sample, [3], add_generation_prompt=True)
    assert torch.equal(whole.input_ids[: len(asked)], asked.input_ids)
    assert whole.labels[: len(asked)].tolist()[-1] == IGNORE
    assert asked.labels.eq(IGNORE).all()
    rest = made.tokenizer.decode(whole.input_ids[len(asked) :].tolist())
    assert rest.strip().startswith(texts[3].strip())
    first = made.render(Sample("s", sample.turns[:2], sample.images), [3], True)
    assert torch.equal(whole.input_ids[: len(first)], first.input_ids)


def merging_tokenizer(template: str, trim: bool = False) -> PreTrainedTokenizerFast:
    """Bytes, and merges that reach over the border of an answer: line breaks and blanks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    newline, blank = "Ċ", "Ġ"
    merges = [(newline, newline), (":", blank), (newline, "a"), (blank, "a"), (".", newline)]
    merges += [(".", blank), ("?", blank), (blank, "U")]
    symbols = [*alphabet, *(a + b for a, b in merges)]
    model = models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=merges)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        chat_template=template,
    )


MERGING = {
    "qwen": Prompter(merging_tokenizer(QWEN_TEMPLATE), IMAGE),
    "bare": Prompter(merging_tokenizer(BARE), "<image>"),
}


@pytest.mark.parametrize("template", [QWEN_TEMPLATE, BARE], ids=["qwen", "bare"])
def test_offsets_without_blanks_change_nothing(template: str) -> None:
    image = IMAGE if template == QWEN_TEMPLATE else "<image>"
    sample = dialogue("What? ", " a  b a", " And ", "  Blue  a. ", images=1)
    whole, trimmed = (
        Prompter(merging_tokenizer(template, trim), image).render(sample, [3])
        for trim in (False, True)
    )
    assert torch.equal(whole.input_ids, trimmed.input_ids)
    assert torch.equal(whole.labels, trimmed.labels)
    assert whole.spans == trimmed.spans


def test_a_token_over_the_border_of_an_answer_is_cut_there() -> None:
    made = MERGING["qwen"]
    prompt = made.render(dialogue("What?", "\nRed."), [])
    joined = made.tokenizer(prompt.text)["input_ids"]
    assert prompt.input_ids.tolist() != joined, "the tokenizer does not merge over the border"
    assert supervised_runs(made, prompt) == ["\nRed.<|im_end|>"]


def test_generation_leaves_out_the_answer_and_labels_nothing() -> None:
    made = prompter()
    answered = made.render(dialogue("What?", "Red."), [], add_generation_prompt=True)
    asked = made.render(dialogue("What?"), [], add_generation_prompt=True)
    assert torch.equal(answered.input_ids, asked.input_ids)
    assert answered.text.endswith("<|im_start|>assistant\n")
    assert answered.supervised_tokens == 0


def test_a_beginning_of_sequence_the_tokenizer_adds_is_there_once() -> None:
    tokenizer = tiny_tokenizer(LLAVA_TEMPLATE)
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
    )
    made = Prompter(tokenizer, "<image>")
    prompt = made.render(dialogue("What?", "Red.", images=1), [5])
    assert prompt.input_ids[:2].tolist() == tokenizer("<|im_start|>")["input_ids"]
    assert prompt.input_ids.eq(tokenizer.bos_token_id).sum() == 1
    assert [int(prompt.input_ids[i]) for i in range(*prompt.image_spans[0])] == [
        made.image_token_id
    ] * 5
    tokenizer.chat_template = "{{ bos_token }}" + LLAVA_TEMPLATE
    written = Prompter(tokenizer, "<image>").render(dialogue("What?", "Red."), [])
    assert written.input_ids.eq(tokenizer.bos_token_id).sum() == 1


@pytest.mark.parametrize(
    ("turn", "token"),
    [
        (Turn("user", ("What is <|image_pad|>?",)), "<|image_pad|>"),
        (Turn("user", ("Stop <|im_end|> here",)), "<|im_end|>"),
        (Turn("user", ("What is <|image", "_pad|>?")), "<|image_pad|>"),
    ],
)
def test_special_tokens_in_a_text_are_refused(turn: Turn, token: str) -> None:
    sample = Sample("s", (turn, Turn("assistant", ("a",), True)), origin="f.json:3")
    with pytest.raises(DataError, match=r"f\.json:3.*user text of turn 0") as caught:
        prompter().render(sample, [])
    assert token in str(caught.value)


def test_an_image_between_two_texts_joins_no_token() -> None:
    sample = Sample(
        "s",
        (Turn("user", ("<|image", 0, "_pad|>")), Turn("assistant", ("a",), True)),
        (picture(3, 3),),
    )
    assert prompter().render(sample, [4]).image_spans[0][1] - 4 > 0


@pytest.mark.parametrize(
    ("turns", "images", "counts", "message"),
    [
        ((Turn("user", ("a",)),), 0, [], "no supervised token"),
        ((Turn("user", ("a",)), Turn("assistant", ("b",))), 0, [], "no supervised token"),
        ((Turn("assistant", ("b",), True),), 0, [], "expected user"),
        ((Turn("user", ("a",)), Turn("user", ("b",))), 0, [], "expected assistant"),
        ((Turn("user", ("a",)), Turn("system", ("b",))), 0, [], "may only be the first"),
        ((Turn("user", ("a",)), Turn("assistant", (" ",), True)), 0, [], "not blank"),
        ((Turn("user", ("a",)), Turn("assistant", (0,), True)), 1, [3], "user or system"),
        ((Turn("user", ("a",), True), Turn("assistant", ("b",))), 0, [], "can be supervised"),
        ((Turn("user", (1, 0)), Turn("assistant", ("b",), True)), 2, [3, 3], "exactly once"),
        ((Turn("user", (0, 0)), Turn("assistant", ("b",), True)), 1, [3], "exactly once"),
        ((Turn("user", ("a",)), Turn("assistant", ("b",), True)), 1, [3], "exactly once"),
        ((Turn("user", (0,)), Turn("assistant", ("b",), True)), 1, [], "token counts"),
        ((Turn("user", (0,)), Turn("assistant", ("b",), True)), 1, [0], "positive count"),
        ((Turn("system", ("a",)),), 0, [], "a user turn is needed"),
        ((), 0, [], "at least a user turn"),
        ((Turn("bot", ("a",)),), 0, [], "'bot' is not a role; allowed: system, user, assistant"),  # type: ignore[arg-type]
    ],
)
def test_malformed_conversations_name_sample_and_fault(
    turns: tuple[Turn, ...], images: int, counts: list[int], message: str
) -> None:
    sample = Sample("s7", turns, (picture(3, 3),) * images, origin="f.json:3")
    with pytest.raises(DataError, match=message) as caught:
        prompter().render(sample, counts)
    assert "f.json:3" in str(caught.value)


def test_a_template_that_writes_turns_differently_later_is_refused() -> None:
    # The reasoning of earlier turns left out, as some published templates do.
    thinks = "{%- if message['role'] == 'assistant' and loop.last -%}{{ '<think>' }}{%- endif -%}"
    unstable = TURNS.replace("PARTS", thinks + PARTS.replace("TRIM", ""))
    made = prompter(unstable)
    with pytest.raises(DataError, match="not prefix-stable: turn 1"):
        made.render(dialogue("a", "b", "c", "d"), [])


def test_a_generation_prompt_that_is_not_how_a_turn_begins_is_refused() -> None:
    made = prompter(
        TURNS.replace("PARTS", PARTS.replace("TRIM", "")).replace(
            "{{ '<|im_start|>assistant\n' }}{%- endif -%}",
            "{{ '<|im_start|>assistant\n<think>' }}{%- endif -%}",
        )
    )
    with pytest.raises(DataError, match="its generation prompt"):
        made.render(dialogue("a", "b"), [])


def test_a_template_that_refuses_a_conversation_is_quoted() -> None:
    refusing = (
        "{%- if messages[0]['role'] == 'system' -%}{{ raise_exception('No system here') }}"
        "{%- endif -%}" + QWEN_TEMPLATE
    )
    sample = Sample("s", (Turn("system", ("x",)), *dialogue("a", "b").turns))
    with pytest.raises(DataError, match=r"refuses.*'system'.*No system here"):
        prompter(refusing).render(sample, [])


@pytest.mark.parametrize(("writes", "found"), [("", 0), ("<|image_pad|><|image_pad|>", 2)])
def test_a_template_must_write_one_placeholder_an_image(writes: str, found: int) -> None:
    template = QWEN_TEMPLATE.replace(IMAGE, writes)
    with pytest.raises(DataError, match=f"wrote {found} placeholders .* for 1 images"):
        prompter(template).render(dialogue("a", "b", images=1), [3])


def test_tokenizers_that_cannot_serve_are_refused() -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(InputError, match="'<picture>' is 9 tokens"):
        Prompter(tokenizer, "<picture>")
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        Prompter(tokenizer, IMAGE)
    endless = tiny_tokenizer(BARE)
    endless.eos_token = None
    with pytest.raises(InputError, match="no end-of-sequence token"):
        Prompter(endless, "<image>").render(dialogue("a", "b"), [])


def test_padding_falls_back_to_the_end_of_sequence() -> None:
    tokenizer = tiny_tokenizer()
    assert Prompter(tokenizer, IMAGE).pad_id == tokenizer.pad_token_id
    tokenizer.pad_token = None
    assert Prompter(tokenizer, IMAGE).pad_id == tokenizer.eos_token_id
