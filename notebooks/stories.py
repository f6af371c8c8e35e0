# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Four models read aloud
#
# `story` runs a Pyro program and says what it believes: what each site is drawn from, what that depends on, in
# which plates and loops it stands. It reads no docstring, so that it cannot be out of date. Here are four models
# of the textbooks, each with its graph and in plain words.

# %%
import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import torch
from IPython.display import HTML, SVG
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.infer.reparam import LocScaleReparam

import pyro_models as ps
from pyro_models.reading import Difference

# %% [markdown]
# ## Eight schools, centred and not
#
# Rubin (1981) compared the effects of coaching on test scores. A mean effect and a spread of effects are drawn
# once. Each school draws its effect around that mean; its result is normal around its effect, with an error that
# is given.


# %% figure="stories-schools.svg"
def schools(results, errors):
    """Effects of coaching on the test scores of schools."""
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.HalfCauchy(10.0))
    with pyro.plate("schools", len(results)):
        effect = pyro.sample("effect", dist.Normal(loc, scale))
        pyro.sample("result", dist.Normal(effect, errors), obs=results)


results = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
errors = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
centred = ps.story(schools, results, errors, guide=AutoNormal(schools))
centred

# %% [markdown]
# The guide draws each latent by itself, in real numbers, and takes the exponential for the spread.
#
# Where the data are few, effects are easier to sample without their centre: as standard normal noise, of which
# the effect is a function. Side by side, green is what the second version adds, red what it lacks, orange what it
# changes:

# %%
apart = ps.story(poutine.reparam(schools, {"effect": LocScaleReparam(0.0)}), results, errors)
HTML(Difference(ps.story(schools, results, errors), apart).html)

# %% [markdown]
# The noise of a school has no parents any more, and its effect is not drawn but computed. The result depends on
# mean, spread and noise, where it depended on the effect alone.
#
# ## A deep Markov model
#
# In each series, the first state is normal; each further state is normal given the state before it, and each
# observation is Bernoulli given its state (Krishnan et al., 2017). The series are of different lengths: what the
# mask leaves out does not count. Twenty steps are read as one, with `z_{t-1}` for the step before.

# %%
emission, transition = torch.nn.Linear(3, 5), torch.nn.Linear(3, 6)


def markov(series, mask):
    """Series of binary notes above a chain of latent states."""
    pyro.module("emission", emission), pyro.module("transition", transition)
    with pyro.plate("series", len(series)):
        z = torch.zeros(len(series), 3)
        for t in pyro.markov(range(1, series.shape[1] + 1)):
            with poutine.mask(mask=mask[:, t - 1]):
                loc, log_scale = transition(z).chunk(2, -1)
                z = pyro.sample(f"z_{t}", dist.Normal(loc, log_scale.exp()).to_event(1))
                notes = dist.Bernoulli(logits=emission(z)).to_event(1)
                pyro.sample(f"x_{t}", notes, obs=series[:, t - 1])


ps.story(markov, torch.zeros(7, 20, 5), torch.ones(7, 20).bool())

# %% [markdown]
# ## Latent Dirichlet allocation
#
# Each topic is a distribution over words. Each document has its shares of the topics; each word in it draws a
# topic by these, and then is drawn from that topic (Blei et al., 2003). The labels of words are summed over,
# which the ELBO says.


# %% figure="stories-topics.svg"
def topics(words):
    """Documents of words, each from a topic."""
    with pyro.plate("topics", 3):
        topic = pyro.sample("topic", dist.Dirichlet(torch.ones(9)))
    with pyro.plate("documents", words.shape[1]):
        shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("words", len(words)):
            label = pyro.sample("label", dist.Categorical(shares), infer={"enumerate": "parallel"})
            pyro.sample("word", dist.Categorical(topic[label]), obs=words)


allocation = ps.story(topics, torch.zeros(6, 4).long(), guide=AutoNormal(poutine.block(topics, hide=["label", "word"])))
allocation

# %% [markdown]
# ## A Gaussian process
#
# The length scale of the kernel is log-normal, and the twenty observations are one draw of a normal whose
# covariance the kernel makes, a smooth part and a linear one.

# %%
kernel = gp.kernels.Sum(gp.kernels.RBF(1), gp.kernels.Linear(1))
kernel.kern0.lengthscale = pyro.nn.PyroSample(dist.LogNormal(0.0, 1.0))
process = gp.models.GPRegression(torch.linspace(0.0, 1.0, 20), torch.linspace(0.0, 1.0, 20).sin(), kernel)
ps.story(process.model)

# %% [markdown]
# ## A guide on the nodes of its story
#
# The arrows of an inference network run against those of the story. `overlay` draws them on the same nodes,
# dashed.


# %%
def model(x):
    """A latent z, and x given z."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    """Given x, z is normal around half of it, as the posterior is."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))


SVG(ps.story(model, results, guide=guide).overlay)
