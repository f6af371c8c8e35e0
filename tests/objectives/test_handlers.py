import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_models.objectives import AtMean, Record, record_pair


def test_record_sees_what_pyros_trace_and_replay_see(vae, x):
    model, guide = vae
    torch.manual_seed(1)
    p, q = record_pair(model, guide, x=x)
    torch.manual_seed(1)
    guide_trace = poutine.trace(guide).get_trace(x=x)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x=x)
    for sites, trace in ((p, model_trace), (q, guide_trace)):
        trace.compute_log_prob()
        assert list(sites) == [name for name in trace.stochastic_nodes if name != "data"] + trace.observation_nodes
        for name, site in sites.items():
            torch.testing.assert_close(site.value, trace.nodes[name]["value"])
            torch.testing.assert_close(site.log_prob(), trace.nodes[name]["log_prob"])
            assert site.is_observed == trace.nodes[name]["is_observed"]


def test_record_keeps_masks_and_scales():
    with Record() as record, poutine.scale(scale=3.0), poutine.mask(mask=torch.tensor([True, False])):
        pyro.sample("a", dist.Normal(torch.zeros(2), 1.0))
    site = record.sites["a"]
    assert site.scale == 3.0
    assert site.log_prob()[1] == 0
    torch.testing.assert_close(site.log_prob()[0], dist.Normal(0.0, 1.0).log_prob(site.value[0]))


def test_at_mean_replaces_draws_and_leaves_observations(vae, x):
    model, guide = vae
    with AtMean(), Record() as q:
        guide(x=x)
    torch.testing.assert_close(q.sites["z"].value, guide.posterior(x).mean)
    with AtMean(), Record() as p:
        model(x=x)
    assert p.sites["x"].value is x
    assert not p.sites["z"].value.any()


def test_a_guide_that_draws_an_observed_site_is_refused(vae, x):
    model, _ = vae

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(torch.full(x.shape, 0.5)).to_event(3))

    with pytest.raises(ValueError, match="'x' is observed in the model and sampled by the guide"):
        record_pair(model, guide, x=x)
