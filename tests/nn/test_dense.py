import copy

import pytest
import torch

from pyro_models.nn import (
    GaussianNoise,
    TransposedLinear,
    decoder,
    encoder,
    glorot,
    mlp,
    normal_init,
    residual_mlp,
    size,
    strided_classifier,
)


def tied():
    inward = torch.nn.Linear(6, 3)
    return torch.nn.ModuleDict({"encoder": inward, "decoder": TransposedLinear(inward)})


def assert_tied(pair):
    assert pair["encoder"].weight is pair["decoder"].weight
    assert len(list(pair.parameters())) == 3
    code = torch.randn(5, 3).to(pair["encoder"].weight)
    expected = code @ pair["encoder"].weight + pair["decoder"].bias
    torch.testing.assert_close(pair["decoder"](code), expected)


def test_a_transposed_layer_shares_its_weight_and_owns_its_bias():
    assert_tied(tied())


def test_the_weight_stays_shared_after_moving_copying_and_loading():
    pair = tied()
    assert_tied(pair.to(torch.float32))
    assert_tied(copy.deepcopy(pair))
    other = tied().to(torch.float32)
    other.load_state_dict(pair.state_dict())
    assert_tied(other)
    torch.testing.assert_close(other["decoder"].weight, pair["encoder"].weight)


def test_an_optimiser_moves_the_shared_weight_once():
    pair = tied()
    optimizer = torch.optim.SGD(pair.parameters(), lr=0.1)
    before = pair["encoder"].weight.detach().clone()
    pair["decoder"](pair["encoder"](torch.randn(4, 6))).square().sum().backward()
    gradient = pair["encoder"].weight.grad.clone()
    optimizer.step()
    torch.testing.assert_close(pair["encoder"].weight, before - 0.1 * gradient)
    assert_tied(pair)


def test_the_gradient_of_the_shared_weight_counts_both_of_its_places():
    pair, x = tied(), torch.randn(4, 6)

    def loss(weight):
        code = x @ weight.T + pair["encoder"].bias
        return (code @ weight + pair["decoder"].bias).square().sum()

    weight = pair["encoder"].weight
    assert torch.autograd.gradcheck(loss, weight.detach().clone().requires_grad_())
    pair["decoder"](pair["encoder"](x)).square().sum().backward()
    torch.testing.assert_close(weight.grad, torch.autograd.functional.jacobian(loss, weight.detach()))


def test_networks_keep_leading_dimensions():
    shape = (3, 4, 5)
    assert size(shape) == 60
    images = torch.rand(2, 7, *shape)
    for body in (mlp(60, 8, 4), residual_mlp(60, 4, width=8, depth=2)):
        assert encoder(body, shape)(images).shape == (2, 7, 4)
    out = decoder(mlp(4, 60), shape)(torch.rand(2, 7, 4))
    assert out.shape == images.shape


def test_encoding_then_decoding_with_identities_is_the_identity():
    shape = (2, 3, 4)
    images = torch.rand(5, *shape)
    both = torch.nn.Sequential(encoder(torch.nn.Identity(), shape), decoder(torch.nn.Identity(), shape))
    torch.testing.assert_close(both(images), images)


@pytest.mark.parametrize("scale", [0.02, 0.5])
def test_redrawn_weights_have_the_moments_of_their_normal_and_no_bias(scale):
    network = strided_classifier((1, 28, 28), 10)
    norms = {name: value.clone() for name, value in network.state_dict().items() if name.startswith(("1.", "4.", "8."))}
    assert normal_init(network, scale) is network
    weights = torch.cat([part.weight.flatten() for part in network if hasattr(part, "weight") and part.weight.ndim > 1])
    n = len(weights)
    assert n == 25 * 16 + 25 * 16 * 32 + 49 * 32 * 128 + 1280
    moments = torch.stack([(weights / scale).pow(k).mean() for k in (1, 2, 3, 4)])
    error = torch.tensor([1.0, 2.0, 15.0, 96.0]).div(n).sqrt()  # Var z^k = E z^2k - (E z^k)^2 of a standard normal
    assert ((moments - torch.tensor([0.0, 1.0, 0.0, 3.0])).abs() < 5 * error).all()
    for part in network:
        if isinstance(part, torch.nn.Linear | torch.nn.Conv2d):
            assert not part.bias.any()
            spread = part.weight.std().item()
            assert spread == pytest.approx(scale, rel=5 / (2 * part.weight.numel()) ** 0.5)
    assert norms
    assert all(torch.equal(network.state_dict()[name], value) for name, value in norms.items())
    normal_init(torch.nn.Linear(2, 2, bias=False), scale)


def test_noise_has_its_scale_while_it_trains_and_is_none_otherwise():
    noise, x = GaussianNoise(0.5), torch.full((200_000,), 7.0)
    drawn = (noise(x) - x) / 0.5
    error = torch.tensor([1.0, 2.0, 96.0]).div(len(x)).sqrt()
    moments = torch.stack([drawn.pow(k).mean() for k in (1, 2, 4)])
    assert ((moments - torch.tensor([0.0, 1.0, 3.0])).abs() < 5 * error).all()
    assert torch.equal(noise.eval()(x), x)


def test_glorot_gives_weights_the_variance_of_the_paper_and_no_bias():
    network = glorot(mlp(300, 100, 400, activation=torch.nn.Tanh))
    for layer, variance in ((network[0], 2 / 400), (network[2], 2 / 500)):
        assert layer.weight.var().item() == pytest.approx(variance, rel=0.02)
        assert not layer.bias.any()
