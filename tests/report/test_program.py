"""What a page computes out of a recorded program is what torch computed."""

from importlib.resources import files

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyro_models.base.errors import UserError
from pyro_models.report.program import Recorder

Z = torch.tensor([[0.3, -1.2, 0.8, 2.5, -0.4, 1.1, -3.0, 0.05, 1.7, -0.9, 0.6, -2.2]], dtype=torch.float32)
IMAGE = (1, 3, 2, 2)
torch.manual_seed(0)
A, B = torch.randn(12, 5), torch.randn(5)
KERNEL, GROUPED, SCALES = torch.randn(3, 4, 3, 3), torch.randn(6, 1, 2, 2), torch.rand(3) + 0.5
CANVAS = torch.stack(torch.meshgrid(torch.linspace(-1.4, 1.2, 5), torch.linspace(-1, 1.1, 4), indexing="ij"), -1)[None]


def image(z):
    return z.reshape(IMAGE)


def in_place(z):
    y = z + 1
    first = y[:, :3]
    y.mul_(2).relu_()
    return first - y[:, 3:6]


FUNCTIONS = {
    "linear": lambda z: F.linear(z, A.T, B),
    "product": lambda z: (z @ A).sigmoid(),
    "scaled sum of products": lambda z: torch.addmm(B, z, A, beta=2, alpha=3),
    "arithmetic": lambda z: (
        2 - z * 3 + (z - 1) / (z * z + 1) - torch.sub(z, z.abs(), alpha=2) + torch.rsub(z, 1, alpha=3)
    ),
    "powers": lambda z: z**2 + 2 ** (z / 3) + (z.abs() + 1).sqrt() + (z.abs() + 1).rsqrt() + (z + 9).reciprocal(),
    "exponentials": lambda z: z.exp() + z.expm1() - (z.abs() + 1).log() + z.abs().log1p() + z.sin() * z.cos(),
    "comparisons": lambda z: (
        torch.where(z > 0.5, z, -z) + 1.0 * (z <= 0) + 2 * (z >= 1) + 4 * (z < -1) + 8 * (z == z) + (z != 0.3)
    ),
    "bounds": lambda z: z.clamp(-1, 1) + z.clamp(min=0) + torch.maximum(z, -z) - torch.minimum(z, B[0]),
    "activations": lambda z: (
        F.relu(z) + F.leaky_relu(z, 0.2) + F.silu(z) + F.softplus(z, 2.0, 3.0) + z.tanh() + z.sigmoid()
    ),
    "more activations": lambda z: F.gelu(z) + F.elu(z, 0.7) + F.selu(z) + z.erf(),
    "views": lambda z: z.view(3, 4).T[1:, ::2].unsqueeze(0).expand(2, 3, 2) + z.unfold(1, 3, 4)[0, :, 1:2],
    "views of views": lambda z: torch.cat([*z.reshape(2, 6).chunk(3, 1), *z.view(2, 6).T.split(2)[1:]][:3], 1).mT,
    "copies of views": lambda z: (z.view(3, 4).T * 2).reshape(2, 6) + z.view(3, 4).T.contiguous().flatten()[:6],
    "stack": lambda z: torch.stack([z, z + 1, 2 * z], 1) - torch.stack([z, z, z], -1).mT,
    "cat of rows": lambda z: torch.cat([z.view(2, 6), z.view(2, 6)[:1]], 0),
    "sums": lambda z: z.view(3, 2, 2).sum((0, 2)) + z.view(2, 6).mean() + z.view(3, 4).mean(0, keepdim=True)[:, :2],
    "extremes": lambda z: z.view(3, 4).amax(-1) + z.view(3, 4).logsumexp(1) + z.sum(),
    "softmax": lambda z: z.view(3, 4).softmax(-1) - z.view(3, 4).softmax(0),
    "layer norm": lambda z: F.layer_norm(z.view(3, 4), (4,), A[0, :4], A[1, :4]) + F.layer_norm(z.view(3, 4), (3, 4)),
    "batch norm": lambda z: (
        F.batch_norm(image(z), B[:3], SCALES, A[0, :3], A[1, :3]) - F.batch_norm(image(z), B[:3], SCALES)
    ),
    "convolution": lambda z: F.conv2d(image(z), KERNEL.transpose(0, 1), A[:4, 0], padding=1),
    "strides and dilation": lambda z: F.conv2d(image(z), KERNEL.transpose(0, 1), None, (2, 1), (2, 3), (1, 2)),
    "groups": lambda z: F.conv2d(image(z), GROUPED, None, padding=1, groups=3),
    "transposed convolution": lambda z: F.conv_transpose2d(image(z), KERNEL, A[:4, 0], 2, 1, 1),
    "transposed groups": lambda z: F.conv_transpose2d(
        torch.cat([image(z), -image(z)], 1), GROUPED, None, (1, 2), (0, 1), groups=3
    ),
    "two images": lambda z: F.conv2d(torch.cat([image(z), 1 - image(z)]), GROUPED, padding=1, groups=3),
    "sampled": lambda z: F.grid_sample(image(z), CANVAS + 0.1 * z[0, 0], align_corners=False),
    "sampled by corners": lambda z: F.grid_sample(image(z), CANVAS + 0.1 * z[0, 0], align_corners=True),
    "in place": in_place,
    "no constant is changed": lambda z: torch.zeros(12).add_(z[0]) + torch.ones(12),
    "shapes of its own": lambda z: torch.ones_like(z) * 3 + torch.zeros_like(z) + z,
}


def record(function):
    z = Z.clone()
    with torch.no_grad(), Recorder({"z": z}) as recorder:
        value = function(z)
    return recorder.program({"x": value}), value


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def interpreter(chromium):
    page = chromium.new_page()
    page.add_script_tag(content=(files("pyro_models.report") / "assets" / "program.js").read_text())
    yield lambda written, z: torch.tensor(
        page.evaluate("([written, z]) => [...program(written)({z: Float32Array.from(z)}).x]", [written, z.tolist()])
    )
    page.close()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_page_computes_what_torch_does(name, interpreter):
    written, value = record(FUNCTIONS[name])
    torch.testing.assert_close(interpreter(written, Z[0]), value.flatten().float(), rtol=2e-6, atol=2e-6)
    other = Z.flip(1) * 0.7
    torch.testing.assert_close(
        interpreter(written, other[0]), FUNCTIONS[name](other.clone()).flatten().float(), rtol=5e-6, atol=5e-6
    )


def test_weights_of_16_bits_are_read_exactly(interpreter):
    numbers = torch.tensor([0.0, -1.5, 2**-24, -(2**-15), 65504.0, 0.333251953125] * 2)
    written, _ = record(lambda z: 0 * z + numbers)
    assert any("float16" in one for one in written["constants"].values())
    assert interpreter(written, Z[0]).tolist() == numbers.tolist()


def test_only_what_the_result_needs_is_written():
    def wasteful(z):
        (z @ A).exp()
        return z * 2

    written, _ = record(wasteful)
    assert [call["op"] for call in written["calls"]] == ["mul"]
    assert written["constants"] == {}


def test_shared_weights_are_written_once():
    layer = nn.Linear(12, 12)
    written, _ = record(lambda z: layer(layer(z)))
    assert len(written["constants"]) == 2


def looking(z):
    return z * 2 if z[0, 0] > 0 else z


def writing_into_a_part(z):
    y = torch.zeros(12)
    y[:3] = z[0, :3]
    return y


def second_result(z):
    return z.view(3, 4).max(1).indices * 1.0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (looking, "it looks at values"),
        (writing_into_a_part, "it writes into a part of a tensor"),
        (second_result, "it uses the second result of an operation"),
    ],
)
def test_what_cannot_be_written_down_is_refused(function, message):
    with pytest.raises(UserError, match=message):
        record(function)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda z: torch.fft.rfft(z).abs(), "operations _fft_r2c"),
        (lambda z: torch.div(z, 2, rounding_mode="floor"), "argument floor"),
        (lambda z: F.gelu(z, approximate="tanh"), "argument tanh"),
        (lambda z: F.conv1d(z[None], torch.ones(1, 1, 2)), "convolutions of images alone"),
        (
            lambda z: F.grid_sample(image(z), CANVAS + z[0, 0], "nearest", align_corners=True),
            "grid_sampler_2d as bilinear",
        ),
    ],
)
def test_what_a_page_does_not_know_it_names(function, message, interpreter):
    from playwright.sync_api import Error

    written, _ = record(function)
    with pytest.raises(Error, match=message):
        interpreter(written, Z[0])
