import math

import pytest
import torch
import torch.nn.functional as F

from pyro_models.nn import SpatialDecoder, spatial_classifier, spatial_encoder
from pyro_models.nn.spatial import PATCH, affine_sample

WHOLE = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def bump(decoder, *, zoom, turn=0.0, right=0.0, down=0.0):
    """Make a decoder draw an even patch of 1 with such a map, whatever the code."""
    for network in (decoder.what, decoder.where):
        for parameter in network[-1].parameters():
            torch.nn.init.zeros_(parameter)
    cos, sin = zoom * math.cos(turn), zoom * math.sin(turn)
    theta = torch.tensor([cos, -sin, right, sin, cos, down])
    with torch.no_grad():
        decoder.what[-1].bias.fill_(1.0)
        decoder.where[-1].bias.copy_(theta - decoder.middle)
    return decoder


def test_placing_is_torchs_own_sampling_on_its_own_grid():
    images, theta = torch.randn(3, 2, 7, 9), torch.randn(3, 6)
    grid = F.affine_grid(theta.unflatten(-1, (2, 3)), [3, 2, 5, 11], align_corners=False)
    torch.testing.assert_close(affine_sample(images, theta, (5, 11)), F.grid_sample(images, grid, align_corners=False))


def test_the_whole_at_its_own_size_is_the_image():
    images = torch.randn(2, 3, 6, 5)
    torch.testing.assert_close(affine_sample(images, torch.tensor([WHOLE, WHOLE]), (6, 5)), images)


@pytest.mark.parametrize(("right", "down"), [(0.0, 0.0), (0.5, -0.25), (-0.4, 0.6)])
@pytest.mark.parametrize("turn", [0.0, 0.7])
def test_a_patch_lies_where_its_middle_is_put_however_it_is_turned(right, down, turn):
    decoder = bump(SpatialDecoder(2, (1, 64, 40), width=8), zoom=4.0, turn=turn, right=right, down=down)
    canvas = decoder(torch.randn(1, 2))[0, 0].detach()
    row = canvas.sum(1) @ torch.arange(64.0) / canvas.sum()
    column = canvas.sum(0) @ torch.arange(40.0) / canvas.sum()
    assert row == pytest.approx((down + 1) * 32 - 0.5, abs=0.5)  # pixels: the patch has sharp edges
    assert column == pytest.approx((right + 1) * 20 - 0.5, abs=0.5)


def test_a_patch_covers_as_much_of_the_canvas_as_the_map_says_and_the_rest_is_background():
    decoder = bump(SpatialDecoder(2, (1, 56, 56), width=8, background=-3.0), zoom=2.0)
    canvas = decoder(torch.zeros(1, 2)).detach()
    assert canvas[0, 0, 28, 28] == pytest.approx(-2.0)
    assert canvas[0, 0, 0, 0] == pytest.approx(-3.0)
    assert float((canvas + 3.0).sum()) == pytest.approx(28 * 28)


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 28, 56), (2, 10, 7)])
def test_codes_and_images_of_any_shape_and_every_weight_learns(shape):
    encoder, decoder = spatial_encoder(shape, 6, width=8), SpatialDecoder(3, shape, width=8)
    codes = encoder(torch.rand(5, *shape)).unflatten(-1, (2, 3))
    images = decoder(codes)
    assert images.shape == (5, 2, *shape)
    (images**2).sum().backward()
    for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 28, 56)])
def test_the_classifier_gives_logits_and_learns_where_to_look(shape):
    classifier = spatial_classifier(shape, 4)
    logits = classifier(torch.rand(5, *shape))
    assert logits.shape == (5, 4)
    (logits**2).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in classifier.where.parameters())


def test_a_glimpse_is_at_first_of_the_whole_canvas():
    encoder = spatial_encoder((1, PATCH, PATCH), 4, width=8)
    seen = []
    encoder.what.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x = torch.rand(2, 1, PATCH, PATCH)
    for parameter in encoder.where[-1].parameters():
        torch.nn.init.zeros_(parameter)
    encoder(x)
    torch.testing.assert_close(seen[0][:, : PATCH**2], x.flatten(1))
