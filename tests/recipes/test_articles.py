"""The article presets beside the articles' loops written out: with equal weights, data and noise."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from pyro_models.data import Attribute, Dataset, Split
from pyro_models.recipes import RECIPES

PIXELS, CLASSES = 784, 10


class Net(nn.Module):
    """Parts by name, in the order in which their weights are compared."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def normed(inputs, outputs):
    return [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.LeakyReLU(0.2)]


def pooled(first, second, hidden, dropout):
    """Two convolutions, each with batch norm, ReLU and 2 x 2 max pooling, and a hidden layer with dropout."""
    layers = []
    for inputs, outputs in ((1, first), (first, second)):
        layers += [nn.Conv2d(inputs, outputs, 4, padding=2), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Linear(49 * second, hidden),
        nn.Dropout(dropout),
        nn.ReLU(),
        nn.Linear(hidden, CLASSES),
    )


def images(count):
    return torch.rand(count, 1, 28, 28)


def one_hot(count):
    return torch.eye(CLASSES)[torch.arange(count) % CLASSES]


def preset_of(name, preset, train=CLASSES, **changes):
    """The objective of a preset, and its pair."""
    recipe = RECIPES[name].preset(preset, **changes)
    attributes = (Attribute("side", ("left", "right")), Attribute("digit", ("1", "2")))
    part = Split(torch.zeros(train, 1, 28, 28, dtype=torch.uint8), torch.arange(train) % CLASSES)
    dataset = Dataset("blank", "grey", part, part, part, attributes=attributes if name == "jmvae" else ())
    model, guide = recipe.pair(dataset)
    return recipe.training_objective(guide, part), model, guide


def weights(*modules):
    return list(dict.fromkeys(weight for module in modules for weight in module.parameters()))


def assert_same(preset, batch, theirs, loop, factor=1.0, constant=0.0):
    """The loss of a preset is `factor` times a loop's and a constant, and so are its slopes, from equal weights.

    Args:
        preset: as `preset_of` returns it.
        batch: of the objective.
        theirs: networks whose weights are those of the preset's model and guide, in their order.
        loop: returns the article's loss.
    """
    objective, *pair = preset
    vector_to_parameters(parameters_to_vector(weights(*pair)), weights(*theirs))
    torch.manual_seed(3)
    ours = objective(*pair, **batch)["loss"]
    torch.manual_seed(3)
    by_hand = loop(*theirs)
    torch.testing.assert_close(ours, factor * by_hand + constant)
    slopes, expected = (torch.autograd.grad(loss, weights(*nets)) for loss, nets in ((ours, pair), (by_hand, theirs)))
    small = 1e-9 * max(slope.abs().max().item() for slope in slopes)  # biases before batch norm have none but rounding
    for one, other in zip(slopes, expected, strict=True):
        torch.testing.assert_close(one, factor * other, rtol=1e-5, atol=small)


def kl(loc, log_variance, loc_=0.0, log_variance_=0.0):
    """KL between two Normals, summed over the latent."""
    log_variance_ = torch.as_tensor(log_variance_)
    ratio = (log_variance.exp() + (loc - loc_) ** 2) / log_variance_.exp()
    return 0.5 * (log_variance_ - log_variance + ratio - 1).sum(-1)


def cross_entropy(logits, x):
    """Of pixels, summed over an image."""
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(-1)


def draw(loc, log_variance):
    return loc + (0.5 * log_variance).exp() * torch.randn_like(loc)


@pytest.mark.parametrize("tied", [False, True])
def test_the_autoencoder(tied):
    """Mean squared error per pixel, of which the Normal of scale 1 has 392 times and a constant."""
    x = images(5)

    def loop(outward, inward):
        code = torch.sigmoid(F.linear(x.flatten(1), inward.weight, inward.bias))
        weight = inward.weight.T if tied else outward.weight
        return F.mse_loss(torch.sigmoid(F.linear(code, weight, outward.bias)), x.flatten(1))

    inward, outward = nn.Linear(PIXELS, 20), nn.Linear(20, PIXELS)
    if tied:  # three tensors, in the order of the preset's: the weight, the decoder's bias, the encoder's
        inward.weight = outward.weight = nn.Parameter(inward.weight.data)
    constant = PIXELS / 2 * math.log(2 * math.pi)
    assert_same(preset_of("autoencoder", "sigmoid", tied=tied), {"x": x}, (outward, inward), loop, PIXELS / 2, constant)


@pytest.mark.parametrize("latent", [2, 20])
def test_the_vae(latent):
    """Cross-entropy summed over pixels and the KL; the encoder gives the log variance."""
    x = images(5)
    encoder = nn.Sequential(nn.Linear(PIXELS, 512), nn.ReLU(), nn.Linear(512, 2 * latent))
    decoder = nn.Sequential(nn.Linear(latent, 512), nn.ReLU(), nn.Linear(512, PIXELS))

    def loop(decoder, encoder):
        loc, log_variance = encoder(x.flatten(1)).chunk(2, -1)
        return (cross_entropy(decoder(draw(loc, log_variance)), x.flatten(1)) + kl(loc, log_variance)).mean()

    assert_same(preset_of("vae", "kingma", latent_dim=latent), {"x": x}, (decoder, encoder), loop)


@pytest.mark.parametrize("labels", [0, 2])
def test_clustering(labels):
    """One relaxed draw of y at 0.5, 8 times KL(z); with labels their reconstruction, and 1000 times cross-entropy."""
    x, labelled_x, labelled_y = images(3), images(2), one_hot(2)
    component = nn.Sequential(*normed(CLASSES, 1024), nn.Linear(1024, 4))
    decoder = nn.Sequential(
        nn.Linear(2, 40),
        *normed(40, 1024),
        nn.Linear(1024, 6272),
        nn.LeakyReLU(0.2),
        nn.Unflatten(1, (128, 7, 7)),
        nn.ConvTranspose2d(128, 64, 4, 2, 1),
        nn.BatchNorm2d(64),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(64, 1, 4, 2, 1),
    )
    layers = [nn.Conv2d(1, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.LeakyReLU(0.2)]
    layers += [nn.Conv2d(64, 128, 4, 2, 1), nn.BatchNorm2d(128), nn.LeakyReLU(0.2), nn.Flatten()]
    head = nn.Sequential(*normed(50, 1024), nn.Linear(1024, 4))
    q_z = Net(body=nn.Sequential(*layers), a=nn.Linear(6272, 40), b=nn.Linear(6272, CLASSES), head=head)

    def bound(component, decoder, q_z, x, y):
        features = q_z.body(x)
        both = torch.cat([q_z.a(features), q_z.b(features) * y], -1)
        loc, log_variance = q_z.head(both).chunk(2, -1)
        divergence = kl(loc, log_variance, *component(y).chunk(2, -1))
        return (cross_entropy(decoder(draw(loc, log_variance)), x) + 8 * divergence).mean()

    def loop(component, decoder, q_y, q_z):
        log_q = q_y(x).log_softmax(-1)
        gumbel = -torch.empty_like(log_q).exponential_().log()
        y = ((log_q + gumbel) / 0.5).softmax(-1)
        loss = bound(component, decoder, q_z, x, y) + (log_q.exp() * (log_q + math.log(CLASSES))).sum(-1).mean()
        if labels:
            loss = loss + labels / CLASSES * (
                bound(component, decoder, q_z, labelled_x, labelled_y) + math.log(CLASSES)
            )
            loss = loss + 1000 * F.cross_entropy(q_y(labelled_x), labelled_y)
        return loss

    batch = {"x": x} | ({"labelled_x": labelled_x, "labelled_y": labelled_y} if labels else {})
    preset = preset_of("gmvae", "clustering-article", data="digits", labels=labels)
    assert_same(preset, batch, (component, decoder, pooled(64, 128, 256, 0.4), q_z), loop)


def test_virtual_adversarial_training():
    """Cross-entropy of the labelled and KL(p(y | x) || p(y | x + r)), the passes of a batch with the same dropout."""
    x, labelled_x, labelled_y = images(4), images(3), one_hot(3)

    def same_dropout(net, x):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return net(x).log_softmax(-1)

    def unit(d):
        return d / d.flatten(1).norm(dim=1)[:, None, None, None]

    def loop(net):
        log_p = net(x).log_softmax(-1).detach()
        d = (1e-6 * unit(torch.randn_like(x))).requires_grad_()
        (slope,) = torch.autograd.grad(
            F.kl_div(same_dropout(net, x + d), log_p, log_target=True, reduction="batchmean"), d
        )
        log_p_r = same_dropout(net, x + 2.5 * unit(slope))
        divergence = F.kl_div(log_p_r, log_p, log_target=True, reduction="batchmean")
        return F.cross_entropy(net(labelled_x), labelled_y) + divergence

    objective, model, guide = preset_of("classifier", "vat-article", split="official")
    nn.init.normal_(model.network[-1].weight)  # from first logits near 0 the slopes of 1e-6 are rounding
    batch = {"x": x, "labelled_x": labelled_x, "labelled_y": labelled_y}
    assert_same((objective, model, guide), batch, (pooled(32, 64, 100, 0.5),), loop)


@pytest.mark.parametrize("preset", ["pixyz-article", "pixyz-article-telbo"])
def test_the_joint_model(preset):
    """JMVAE with both divergences, and the sum of three bounds, all of weight 1; the networks are the preset's own."""
    objective, model, guide = preset_of("jmvae", preset)
    x, y = images(5), torch.rand(2, 5, 1).round()

    def encode(guide, y):
        loc, log_scale = guide.encoder(x, 2 * y - 1 if len(y) else torch.zeros(5, 2)).chunk(2, -1)
        return loc, 2 * log_scale

    def product(guide):
        """Of p(z) and the experts of y, whose log scales the guide squashes."""
        precision, weighted = 1.0, 0.0
        for expert, bit in zip(guide.experts.values(), y, strict=True):
            loc, log_scale = expert(2 * bit - 1).chunk(2, -1)
            own = (-6 * (log_scale / 3).tanh()).exp()
            precision, weighted = precision + own, weighted + own * loc
        return weighted / precision, -precision.log()

    def elbo(model, q, of=("x", "y")):
        z, log_p = draw(*q), 0.0
        for head, bit in zip(model.heads.values(), y, strict=True):
            if "y" in of:
                log_p = log_p - F.binary_cross_entropy_with_logits(head(z), bit, reduction="none").sum(-1)
            else:
                torch.bernoulli(bit)  # the story draws what it is not given
        return (log_p - ("x" in of) * cross_entropy(model.decoder(z), x) - kl(*q)).mean()

    def loop(model, guide):
        q, q_x, q_y = encode(guide, torch.cat([*y], -1)), encode(guide, ()), product(guide)
        if preset == "pixyz-article":
            return -elbo(model, q) + kl(*q, *q_x).mean() + kl(*q, *q_y).mean()
        return -elbo(model, q) - elbo(model, q_x, "x") - elbo(model, q_y, "y")

    assert_same((objective, model, guide), {"x": x, "y1": y[0], "y2": y[1]}, copy.deepcopy((model, guide)), loop)
