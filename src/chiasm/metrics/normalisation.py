"""How texts are made comparable. The one place where answers and captions are normalised."""

from __future__ import annotations

import itertools
import re
import string

ARTICLES = frozenset({"a", "an", "the"})

_PUNCTUATION_TO_SPACE = str.maketrans(dict.fromkeys(string.punctuation, " "))

# Punctuation of the VQA evaluation: it leaves apostrophes, colons and full stops between digits.
_VQA_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS_WITH_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_NUMBER_WORDS = {
    "none": "0",
    **{
        word: str(value)
        for value, word in enumerate(
            "zero one two three four five six seven eight nine ten".split()
        )
    },
}
# Contractions that the VQA evaluation restores when one apostrophe was left out.
_ONE_APOSTROPHE = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd
    how'll how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock
    oughtn't shan't should've shouldn't somebody'll somebody's someone'd someone'll someone's
    something'd something'll that's there'd there're there's they'd they'll they're they've 'twas
    wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll
    who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
""".split()
_TWO_APOSTROPHES = """
    couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've
    someone'd've something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll you'd've
""".split()


def _without_some_apostrophes(word: str, dropped: int) -> list[str]:
    places = [place for place, letter in enumerate(word) if letter == "'"]
    return [
        "".join(letter for place, letter in enumerate(word) if place not in gone)
        for gone in itertools.combinations(places, dropped)
    ]


_CONTRACTIONS = {
    bare: word
    for words in (_ONE_APOSTROPHE, _TWO_APOSTROPHES)
    for word in words
    for bare in _without_some_apostrophes(word, dropped=1)
} | {
    bare: word
    for word in ("'ow's'at", "y'all'd've")
    for bare in _without_some_apostrophes(word, dropped=1)
}
# The published table holds this one the wrong way round; scores are compared with it, so it stays.
_CONTRACTIONS["somebody'd"] = "somebodyd"


def normalise_answer(text: str) -> str:
    """Normalise an answer to a closed question: what `exact_match` compares.

    Lower case; every ASCII punctuation mark becomes a space; the articles a, an and the are
    dropped; runs of white space become one space. So "The red circle." equals "red circle", and
    "non-empty" equals "non empty". Numbers and negations are left as they are. Where nothing else
    is left ("A", "..."), the lower-cased text without outer white space stands for itself, so that
    an answer that is only an article or a mark stays distinguishable.
    """
    words = text.lower().translate(_PUNCTUATION_TO_SPACE).split()
    kept = [word for word in words if word not in ARTICLES]
    return " ".join(kept) if kept else text.lower().strip()


def normalise_vqa(text: str) -> str:
    """Normalise an answer as the VQA v2 evaluation describes it (Antol et al. 2015, section 4).

    White space trimmed; punctuation removed (a mark beside a space, or any mark of a text with a
    comma between digits, vanishes; other marks become a space); full stops removed unless a digit
    follows; lower case; number words zero to ten and "none" become digits; articles dropped;
    left-out apostrophes of contractions restored ("dont" to "don't").
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    has_grouped_digits = _DIGITS_WITH_COMMA.search(text) is not None
    cleaned = text
    for mark in _VQA_PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_space or has_grouped_digits else " ")
    cleaned = _FULL_STOP.sub("", cleaned)
    words = [_NUMBER_WORDS.get(word, word) for word in cleaned.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def tokenise_caption(text: str) -> str:
    """Prepare a caption for the n-gram metrics, which split at white space.

    Lower case, punctuation dropped, apostrophes and hyphens inside words kept. This stands in for
    the Penn Treebank tokeniser of the COCO evaluation, which needs Java; on plain captions the two
    agree but for contractions, which that tokeniser splits.
    """
    return " ".join(re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text.lower()))
