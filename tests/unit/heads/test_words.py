"""The dense head that scores by likeness to words."""

import pytest
import torch

from chiasm.core.grid import ImageGeometry
from chiasm.core.tokens import VisualTokens
from chiasm.heads.words import WordHead

WIDTH = 61
WORDS = {"shape": [[3, 5], [7]], "colour": [[2], [11], [13]]}


def _tokens(features: torch.Tensor) -> VisualTokens:
    geometry = ImageGeometry.from_resize((15, 10), (6, 4), (2, 2))
    return VisualTokens.from_images([features], [geometry])


@pytest.fixture
def embeddings() -> torch.Tensor:
    return torch.randn(17, WIDTH, generator=torch.Generator().manual_seed(3)) * 0.07


@pytest.fixture
def head(embeddings: torch.Tensor) -> WordHead:
    torch.manual_seed(0)
    return WordHead(width=WIDTH, words=WORDS, embeddings=lambda: embeddings)


def test_a_sum_of_embeddings_is_read_as_its_words(head, embeddings):
    features = torch.zeros(6, WIDTH)
    features[4] = embeddings[7] + embeddings[11]
    scores = head.predict(_tokens(features))
    assert scores["cells.shape"].shape == (1, 3, 2, 3)
    assert scores["cells.colour"].shape == (1, 3, 2, 4)
    assert scores["cells.shape"][0, 2, 0].argmax() == 2
    assert scores["cells.colour"][0, 2, 0].argmax() == 2


def test_scores_are_dot_products_in_units_of_the_embeddings(head, embeddings):
    features = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(5))
    deviation = embeddings.std()
    word = (embeddings[3] + embeddings[5]) / 2
    expected = features @ word / deviation**2 / WIDTH**0.5
    found = head.predict(_tokens(features))["cells.shape"][0, :, :, 1].flatten()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_tokens_learn_and_words_do_not(embeddings):
    table = embeddings.clone().requires_grad_(True)
    head = WordHead(width=WIDTH, words=WORDS, embeddings=lambda: table)
    features = torch.randn(6, WIDTH).requires_grad_(True)
    head.predict(_tokens(features))["cells.colour"].sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0
    assert table.grad is None


def test_only_background_has_parameters(head):
    assert {name for name, _ in head.named_parameters()} == {
        f"background.{name}.{kind}" for name in WORDS for kind in ("weight", "bias")
    }
