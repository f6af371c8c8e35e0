import pytest
import torch

from pyro_models.nn import (
    Conditional,
    ConvEncoder,
    Folded,
    conv_classifier,
    conv_component,
    conv_decoder,
    mlp,
    strided_classifier,
)

KINDS, LATENT, BATCH = 4, 3, 5
EACH = torch.eye(KINDS, dtype=torch.float64)[:, None]  # [kinds, 1, kinds], as `enum` asks


def settled(module, *inputs):
    """The module in evaluation mode, its batch norms having seen data."""
    for _ in range(3):
        module(*inputs)
    return module.eval()


def images(channels=1, *left):
    return torch.rand(*left, BATCH, channels, 28, 28)


def kinds():
    return torch.eye(KINDS)[torch.randint(0, KINDS, (BATCH,))]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_networks_map_the_shapes_that_they_document(channels):
    x, y, z = images(channels), kinds(), torch.randn(BATCH, LATENT)
    assert conv_classifier(channels, KINDS)(x).shape == (BATCH, KINDS)
    assert ConvEncoder(channels, KINDS, LATENT)(x, y).shape == (BATCH, 2 * LATENT)
    assert conv_component(KINDS, LATENT)(y).shape == (BATCH, 2 * LATENT)
    assert conv_decoder(channels, LATENT)(z).shape == (BATCH, channels, 28, 28)


@pytest.fixture
def conv_encoder():
    return ConvEncoder(1, KINDS, LATENT)


@pytest.fixture
def conditional():
    body = torch.nn.Sequential(torch.nn.Flatten(), mlp(784, 8, 6))
    return Conditional(body, torch.nn.Linear(KINDS, 6), mlp(6, 8, 2 * LATENT))


@pytest.mark.parametrize("name", ["conv_encoder", "conditional"])
def test_an_encoder_given_every_kind_at_once_is_the_encoder_given_each_in_turn(name, request):
    x, encoder = images(), request.getfixturevalue(name)
    encoder = settled(encoder, x, kinds())
    together = encoder(x, EACH)
    assert together.shape == (KINDS, BATCH, 2 * LATENT)
    for k in range(KINDS):
        torch.testing.assert_close(together[k], encoder(x, EACH[k].expand(BATCH, KINDS)))
    assert (together[0] - together[1]).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["conv_encoder", "conditional"])
def test_further_dimensions_of_kinds_stand_left_of_the_batch(name, request):
    x, encoder = images(), request.getfixturevalue(name)
    encoder = settled(encoder, x, kinds())
    y = torch.randn(2, 3, BATCH, KINDS).softmax(-1)
    whole = encoder(x, y)
    assert whole.shape == (2, 3, BATCH, 2 * LATENT)
    for a in range(2):
        for b in range(3):
            torch.testing.assert_close(whole[a, b], encoder(x, y[a, b]))
    torch.testing.assert_close(encoder(x, y[:, :1, :1]), encoder(x, y[:, :1, :1].expand(2, 1, BATCH, KINDS)))


@pytest.mark.parametrize("name", ["conv_encoder", "conditional"])
def test_what_reads_the_data_runs_once_for_all_kinds(name, request):
    encoder, seen = request.getfixturevalue(name), []
    encoder.body.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    encoder(images(), EACH)
    assert seen == [BATCH]


def test_a_kind_lets_through_its_own_feature_alone():
    x, encoder = images(), ConvEncoder(1, KINDS, LATENT)
    encoder = settled(encoder, x, kinds())
    before = encoder(x, EACH)
    with torch.no_grad():
        encoder.per_cluster.weight[2] += 0.1
    after = encoder(x, EACH)
    for k in range(KINDS):
        assert torch.equal(before[k], after[k]) == (k != 2)


@pytest.mark.parametrize("left", [(), (4,), (2, 3)])
def test_component_and_decoder_keep_dimensions_left_of_the_batch(left):
    y, z = torch.rand(*left, BATCH, KINDS), torch.randn(*left, BATCH, LATENT)
    for network, given, shape in (
        (conv_component(KINDS, LATENT), y, (2 * LATENT,)),
        (conv_decoder(1, LATENT), z, (1, 28, 28)),
    ):
        settled(network, given)
        whole = network(given)
        assert whole.shape == (*left, BATCH, *shape)
        one_by_one = [network(part) for part in given.reshape(-1, BATCH, given.shape[-1])]
        torch.testing.assert_close(whole.reshape(-1, BATCH, *shape), torch.stack(one_by_one))


def test_the_component_takes_every_kind_at_once():
    component = settled(conv_component(KINDS, LATENT), kinds())
    together = component(EACH)
    assert together.shape == (KINDS, 1, 2 * LATENT)
    for k in range(KINDS):
        torch.testing.assert_close(together[k], component(EACH[k]))


def test_a_folded_module_counts_all_that_stands_left_as_one_batch_while_it_trains():
    norm = torch.nn.BatchNorm1d(3)
    x = torch.randn(4, 5, 3)
    expected = (x - x.mean((0, 1))) / (x.var((0, 1), correction=0) + norm.eps).sqrt()
    torch.testing.assert_close(Folded(norm)(x), expected)


@pytest.mark.parametrize("left", [(), (7,), (2, 3)])
def test_a_folded_module_takes_inputs_of_several_dimensions(left):
    convolution = torch.nn.Conv2d(2, 3, 3)
    x = torch.rand(*left, BATCH, 2, 6, 5)
    whole = Folded(convolution, event_dim=3)(x)
    assert whole.shape == (*left, BATCH, 3, 4, 3)
    parts = [convolution(part) for part in x.reshape(-1, BATCH, 2, 6, 5)]
    torch.testing.assert_close(whole.reshape(-1, BATCH, 3, 4, 3), torch.stack(parts))


def test_data_of_one_batch_do_not_touch_each_other_in_evaluation():
    x, classifier = images(), conv_classifier(1, KINDS)
    settled(classifier, x)
    torch.testing.assert_close(classifier(x)[2:3], classifier(x[2:3]))


SIZES = [(1, 28, 28), (3, 5, 7), (1, 1, 1), (3, 9, 2), (2, 33, 4)]


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_strided_convolutions_take_images_of_any_size_each_by_itself(shape):
    x, classifier = torch.rand(BATCH, *shape), strided_classifier(shape, KINDS)
    settled(classifier, x)
    together = classifier(x)
    assert together.shape == (BATCH, KINDS)
    torch.testing.assert_close(classifier(x[2:3]), together[2:3])
    (slope,) = torch.autograd.grad(classifier(x.requires_grad_()).square().sum(), x)
    assert (slope != 0).all()  # it looks at every pixel, those of the edge too


@pytest.mark.parametrize("shape", SIZES[:2], ids=str)
def test_strided_convolutions_halve_the_image_twice_and_use_every_parameter(shape):
    classifier, seen = strided_classifier(shape, KINDS), []
    for part in classifier:
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[2:]))
    classifier(torch.rand(BATCH, *shape)).square().mean().backward()
    halves = [tuple(-(-side // by) for side in shape[1:]) for by in (2, 4)]
    assert [tuple(each) for each in seen] == halves
    assert all(parameter.grad is not None for parameter in classifier.parameters())


@pytest.mark.parametrize(("options", "dropout"), [({}, 0.4), ({"dropout": 0.5}, 0.5), ({"dropout": 0.0}, 0.0)])
def test_the_classifier_drops_the_share_of_features_that_it_is_told_to(options, dropout):
    classifier, dropped = conv_classifier(1, KINDS, (4, 8), 500, **options), []
    (layer,) = (part for part in classifier if isinstance(part, torch.nn.Dropout))
    layer.register_forward_hook(lambda module, inputs, output: dropped.append((output == 0).double().mean()))
    classifier(torch.rand(40, 1, 28, 28))
    torch.testing.assert_close(dropped[0], torch.tensor(dropout), rtol=0, atol=5 * (0.25 / 20_000) ** 0.5)


def test_the_classifier_has_the_widths_that_it_is_given():
    """That of the article on virtual adversarial training, by hand: kernels of 4 x 4, an image of 7 x 7 in the end."""
    classifier = conv_classifier(1, 10, (32, 64), 100, 0.5)
    convolutions = 32 * 16 + 32 + 64 * 32 * 16 + 64
    norms, linear = 2 * (32 + 64), 49 * 64 * 100 + 100 + 100 * 10 + 10
    assert sum(parameter.numel() for parameter in classifier.parameters()) == convolutions + norms + linear


def test_the_classifier_drops_features_only_while_it_trains():
    x, classifier = images(), conv_classifier(1, KINDS)
    assert (classifier(x) != classifier(x)).any()
    settled(classifier, x)
    assert torch.equal(classifier(x), classifier(x))


def test_every_parameter_of_the_networks_is_used():
    x, y = images(), torch.rand(KINDS, BATCH, KINDS)
    encoder, decoder, component = ConvEncoder(1, KINDS, LATENT), conv_decoder(1, LATENT), conv_component(KINDS, LATENT)
    z = (encoder(x, y) + component(y))[..., :LATENT]
    (decoder(z).square().mean() + encoder(x, y).square().mean() + component(y).square().mean()).backward()
    for network in (encoder, decoder, component):
        assert all(parameter.grad is not None for parameter in network.parameters())
