"""Which tokens say a phrase: exact under every template and tokenizer, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from chiasm.core.errors import DataError
from chiasm.core.samples import Phrase, Sample, Turn
from chiasm.data.prompts import Prompt, Prompter
from tests.tiny import LLAVA_TEMPLATE, QWEN_TEMPLATE, picture, tiny_tokenizer
from tests.unit.data.test_prompts import BARE, IMAGE, TRIMMED, merging_tokenizer

TEMPLATES = {
    "qwen": (QWEN_TEMPLATE, IMAGE),
    "llava": (LLAVA_TEMPLATE, "<image>"),
    "bare": (BARE, "<image>"),
    "trimmed": (TRIMMED, IMAGE),
}
PROMPTERS = {
    f"{name} {kind}": Prompter(make(template), image)
    for name, (template, image) in TEMPLATES.items()
    for kind, make in (("words", tiny_tokenizer), ("merged", merging_tokenizer))
}
any_prompter = pytest.mark.parametrize("made", PROMPTERS.values(), ids=PROMPTERS)


def pointing(*turns: tuple[object, ...], phrases: list[Phrase], images: int = 1) -> Sample:
    """User and assistant in alternation, from their parts; nothing is supervised."""
    roles = ("user", "assistant")
    made = tuple(Turn(roles[index % 2], parts) for index, parts in enumerate(turns))  # type: ignore[arg-type]
    pictures = tuple(picture(5, 7, seed) for seed in range(images))
    return Sample("s", made, pictures, origin="f.json:3", phrases=tuple(phrases))


def covered(prompt: Prompt, index: int) -> str:
    """Return the characters that the tokens of a phrase cover, in the order of the text."""
    places = sorted({p for i in prompt.phrases[index] for p in range(*prompt.spans[i])})
    return "".join(prompt.text[place] for place in places)


@any_prompter
def test_the_words_meant_are_found_among_equal_ones(made: Prompter) -> None:
    # The words of the phrases stand in the template and elsewhere in the turns, too.
    answer = "a user. the user and the assistant. the user"
    last = answer.rindex("the user")
    phrases = [
        Phrase(1, last, last + 8, identifier="last"),
        Phrase(1, 2, 6, identifier="first"),
        Phrase(0, 4, 8, identifier="asked"),
    ]
    sample = pointing((0, "Has user a user?"), (answer,), phrases=phrases)
    prompt = made.render(sample, [3])
    assert list(prompt.phrases) == [0, 1, 2]
    spans = [[prompt.spans[i] for i in prompt.phrases[index]] for index in range(3)]
    body = prompt.text.index(answer)
    asked = prompt.text.index("Has user") + 4
    for found, start, words in zip(
        spans, (body + last, body + 2, asked), ("the user", "user", "user"), strict=True
    ):
        assert prompt.text[start : start + len(words)] == words
        assert min(a for a, _ in found) <= start < min(b for _, b in found)
        assert max(a for a, _ in found) < start + len(words) <= max(b for _, b in found)
        assert all(a < start + len(words) and b > start for a, b in found)
    assert all(prompt.input_ids[i] != made.image_token_id for i in prompt.phrases[0])


TEXTS = st.lists(
    st.text(st.sampled_from("ab U.?\n:äß☃🙂"), min_size=1, max_size=9), min_size=1, max_size=4
)


@any_prompter
@settings(max_examples=40, deadline=None)
@given(texts=TEXTS, data=st.data())
def test_every_character_of_a_phrase_and_no_other_chooses_tokens(
    made: Prompter, texts: list[str], data: st.DataObject
) -> None:
    # Distinct marks around each text tell where it went, whatever the template trims.
    text = "«" + "|".join(texts) + "»"
    start = data.draw(st.integers(0, len(text) - 1), "start")
    stop = data.draw(st.integers(start + 1, len(text)), "stop")
    if not text[start:stop].strip():
        return
    sample = pointing((0, "Look."), (text,), phrases=[Phrase(1, start, stop)])
    prompt = made.render(sample, [3])
    at = prompt.text.index("«")
    words = text[start:stop]
    first = at + start + len(words) - len(words.lstrip())
    last = first + len(words.strip())
    expected = [
        i
        for i, (a, b) in enumerate(prompt.spans)
        if any(first <= place < last for place in range(a, b))
    ]
    assert list(prompt.phrases[0]) == expected


def test_a_token_over_the_border_belongs_to_both_sides() -> None:
    made = PROMPTERS["qwen merged"]
    text = "red a blue"  # " a" is one token of this tokenizer
    sample = pointing(
        (0, "What?"), (text,), phrases=[Phrase(1, 0, 4), Phrase(1, 4, 5), Phrase(1, 5, 10)]
    )
    prompt = made.render(sample, [2])
    assert [covered(prompt, index) for index in range(3)] == ["red", " a", "blue"]
    before = pointing((0, "What?"), (text,), phrases=[Phrase(1, 2, 5), Phrase(1, 4, 10)])
    prompt = made.render(before, [2])
    assert [covered(prompt, index) for index in range(2)] == ["d a", " a blue"]
    assert set(prompt.phrases[0]) & set(prompt.phrases[1])


@any_prompter
def test_white_space_that_a_template_trims_moves_nothing(made: Prompter) -> None:
    text = " \n the cup. a dog \n"
    sample = pointing((0, "  Look  "), (text,), phrases=[Phrase(1, 0, 10), Phrase(1, 12, 19)])
    prompt = made.render(sample, [3])
    assert covered(prompt, 0).strip() == "the cup"
    assert covered(prompt, 1).strip() == "a dog"


@pytest.mark.parametrize("name", ["qwen words", "trimmed words", "llava words"])
def test_an_image_inside_a_phrase_is_no_token_of_it(name: str) -> None:
    made = PROMPTERS[name]
    phrases = [Phrase(0, 4, 15, image=1), Phrase(1, 0, 3)]
    sample = pointing((0, "the red ", 1, "circle?"), ("yes",), phrases=phrases, images=2)
    prompt = made.render(sample, [3, 5])
    said = [int(prompt.input_ids[i]) for i in prompt.phrases[0]]
    assert made.image_token_id not in said
    assert covered(prompt, 0).replace(" ", "") == "redcircle?"
    inside = range(*prompt.image_spans[1])
    assert prompt.phrases[0][0] < inside[0] and inside[-1] < prompt.phrases[0][-1]


@any_prompter
def test_generation_keeps_the_phrases_of_the_turns_it_keeps(made: Prompter) -> None:
    phrases = [Phrase(0, 0, 4), Phrase(1, 0, 3), Phrase(2, 4, 7), Phrase(3, 0, 4)]
    sample = pointing((0, "What?"), ("red",), ("And now?",), ("blue",), phrases=phrases)
    whole = made.render(sample, [3])
    asked = made.render(sample, [3], add_generation_prompt=True)
    assert set(whole.phrases) == {0, 1, 2, 3}
    assert dict(asked.phrases) == {index: whole.phrases[index] for index in (0, 1, 2)}


def test_private_characters_in_a_text_are_words_like_others() -> None:
    made = PROMPTERS["qwen words"]
    text = "\ue000the cup\ue001 \ue000"
    sample = pointing((0, "What?"), (text,), phrases=[Phrase(1, 1, 8), Phrase(1, 10, 11)])
    prompt = made.render(sample, [2])
    assert covered(prompt, 0) == "the cup" or "the cup" in covered(prompt, 0)
    assert covered(prompt, 1).strip() == "\ue000"


def test_places_that_are_not_there_are_refused_all_at_once() -> None:
    phrases = [
        Phrase(1, 0, 3, identifier="one"),
        Phrase(1, 2, 99, identifier="one"),
        Phrase(7, 0, 1),
        Phrase(1, 3, 4),
        Phrase(1, 0, 3, image=4),
        Phrase(1, 2, 2),
    ]
    sample = pointing((0, "What?"), ("red cup",), phrases=phrases)
    with pytest.raises(DataError) as caught:
        PROMPTERS["qwen words"].render(sample, [2])
    assert list(caught.value.faults) == [
        "f.json:3: phrases[1]: identifier 'one' is that of phrases[0]; names are unique",
        "f.json:3: phrases[1]: characters 2 to 99; turn 1 has the characters 0 to 7",
        "f.json:3: phrases[2]: stands in turn 7; the sample has 2 turn(s)",
        "f.json:3: phrases[3]: characters 3 to 4 of turn 1 are blank; a phrase holds at "
        "least one word; leave it out, or correct its place",
        "f.json:3: phrases[4]: means image 4; the sample has 1 image(s)",
        "f.json:3: phrases[5]: characters 2 to 2 of turn 1 are blank; a phrase holds at "
        "least one word; leave it out, or correct its place",
    ]


@pytest.mark.parametrize(
    "change", ["| replace('the cup', 'it')", "| upper", "* 2", "| truncate(4, True, '', 0)"]
)
def test_a_template_that_rewrites_what_is_said_is_refused(change: str) -> None:
    made = Prompter(tiny_tokenizer(TRIMMED.replace("| trim", change)), IMAGE)
    sample = pointing((0, "What?"), ("the cup",), phrases=[Phrase(1, 4, 7)])
    if change == "| upper":
        # The case changes and not the length: the words stay where they are.
        assert covered(made.render(sample, [2]), 0).strip() == "CUP"
        return
    with pytest.raises(DataError, match=r"f\.json:3.*template rewrites the text in which phrases"):
        made.render(sample, [2])


def test_a_phrase_without_tokens_is_named() -> None:
    tokenizer = tiny_tokenizer(QWEN_TEMPLATE)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("☃", "")
    made = Prompter(tokenizer, IMAGE)
    phrases = [Phrase(1, 0, 3), Phrase(1, 4, 5, identifier="snow")]
    sample = pointing((0, "What?"), ("red ☃",), phrases=phrases)
    with pytest.raises(
        DataError, match=r"f\.json:3: phrase snow '☃' has no token in the rendered text"
    ):
        made.render(sample, [2])
