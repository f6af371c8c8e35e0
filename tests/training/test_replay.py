"""A step as a CUDA graph: what it is given lies on the GPU, and it computes what the step as it is does."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_models.objectives import ESTIMATORS, Scheduled, entropy, marginal_kl, regularised, relaxed, scaled
from pyro_models.training.replay import put_constants
from tests.training.test_capture import Mixture, trained, warnings_of, x  # noqa: F401  (fixtures)

META = torch.device("meta")  # stands for a GPU where there is none
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def test_constants_are_put_where_a_kernel_cannot_take_them_from_the_host():
    def step(data):
        double = data * torch.tensor(2.0)
        chosen = double[:, torch.tensor([0, 2])]
        return torch.where(chosen > 0, chosen, torch.tensor(0.5).log())

    module = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(torch.zeros(3, 4, device=META))
    put_constants(module, META)
    (number,) = (node for node in module.graph.nodes if node.target is torch.ops.aten.mul.Tensor)
    assert number.args[1].meta["val"].device.type == "cpu"  # which a kernel takes as an argument
    operations = [torch.ops.aten.index.Tensor, torch.ops.aten.where.self]
    moved = [node for op in operations for node in module.graph.nodes if node.target is op]
    assert len(moved) == 2
    names = [each.target for node in moved for each in node.all_input_nodes if each.op == "get_attr"]
    assert [getattr(module, name).device for name in names] == [META, META]
    assert module(torch.zeros(3, 4, device=META)).shape == (3, 2)


def falling(pair):
    """A falling temperature, and a term of rising weight."""
    return Scheduled(
        lambda progress: regularised(
            scaled(relaxed(ESTIMATORS["mean-field"], 1.0 - 0.5 * progress), {"z": min(1.0, 2 * progress)}),
            {"marginal_kl": (0.3, marginal_kl), "entropy": (0.1 + progress, entropy)},
            pair.classify,
        )
    )


@needs_gpu
@pytest.mark.parametrize("objective", [lambda pair: ESTIMATORS["enum"], lambda pair: ESTIMATORS["graph"], falling])
def test_a_cuda_graph_computes_what_the_step_does(objective, x, warnings_of):  # noqa: F811
    batches = [{"x": part.cuda()} for part in x.split([8, 8, 4])]  # with the same noise, dropout and running means
    (ours, weights), (theirs, others) = (
        trained(lambda: Mixture().cuda(), batches, objective, w) for w in ("graph", "off")
    )
    assert warnings_of() == []
    for epoch, other in zip(ours, theirs, strict=True):
        assert epoch == pytest.approx(other, rel=1e-9)
    for weight, other in zip(weights, others, strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-9, atol=1e-9)


@needs_gpu
def test_parameters_that_an_optimiser_puts_elsewhere_are_found(x, warnings_of):  # noqa: F811
    class Elsewhere(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            for weight in self.param_groups[0]["params"]:
                weight.data = weight.data.clone()

    options = {"optimizer": lambda weights: Elsewhere(weights, lr=0.05), "learning_rate": None}
    ours, theirs = (
        trained(lambda: Mixture().cuda(), [{"x": x.cuda()}], lambda pair: ESTIMATORS["enum"], way, **options)[1]
        for way in ("graph", "off")
    )
    assert warnings_of() == []
    torch.testing.assert_close(ours, theirs)
