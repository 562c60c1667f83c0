"""What the tower reads of a pair, and what is to be drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from chiasm.core.errors import GeometryError
from chiasm.fusion.pair_views import draw_on_image, normalise_views, view_to_draw
from tests.tiny_pairs import pair_samples, tiny_pair_model


def test_views_are_normalised_as_the_processor_does() -> None:
    model = tiny_pair_model()
    batch = model.collator(pair_samples(3))
    assert batch.pairs is not None
    processor = model.host.image_processor
    found = normalise_views([batch.pairs.original], processor.image_mean, processor.image_std)
    torch.testing.assert_close(found, batch.host_images["pixel_values"], atol=2e-6, rtol=0)


def test_the_target_is_drawn_where_it_is_known_and_else_the_reconstruction() -> None:
    batch = tiny_pair_model().collator(pair_samples(3))
    assert batch.pairs is not None
    blend = torch.rand_like(batch.pairs.original)
    known = torch.tensor([True, False, True])
    found = view_to_draw(replace(batch.pairs, target_known=known), blend, "picture")
    assert torch.equal(found[0], batch.pairs.target[0])
    assert torch.equal(found[1], batch.pairs.reconstruction[1])
    assert torch.equal(view_to_draw(batch.pairs, blend, "picture"), batch.pairs.target)
    assert torch.equal(view_to_draw(batch.pairs, blend, "blend"), blend)
    small = replace(batch.pairs, target=batch.pairs.target[..., ::2, ::2], target_known=known)
    assert view_to_draw(small, blend, "picture").shape[-1] == 12
    with pytest.raises(GeometryError, match="targets of 24 x 12 pixels"):
        view_to_draw(replace(small, target=batch.pairs.target[..., ::2]), blend, "picture")


def test_what_is_drawn_loses_its_padding() -> None:
    model = tiny_pair_model()
    (geometry,) = model.host.preparer.prepare([Image.new("RGB", (60, 40))]).geometries
    view = torch.full((3, 24, 24), -1.0)
    view[:, 4:20] = 1.0
    picture = draw_on_image(view, geometry)
    assert picture.shape == (40, 60, 3)
    assert picture.dtype == np.uint8
    assert (picture[2:-2] == 255).all()
