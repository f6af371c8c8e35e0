"""The model/guide pairs of Pyro's own examples and tutorials, built from a folder that holds them.

Each function here takes the folder and returns the pair that one example trains, with tiny synthetic data in place of
its own: the programs are the files', and nothing of them stands here. Where an example samples by MCMC it gets the
automatic guide that its text, or the text next to it, proposes.
"""

import ast
import contextlib
import importlib.util
import io
import json
import math
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoLowRankMultivariateNormal,
    AutoNormal,
    init_to_median,
)
from pyro.infer.reparam import DiscreteCosineReparam, LocScaleReparam, StableReparam

from tests.programs.pair import Pair

EXAMPLES: dict[str, Callable[["Source"], Pair]] = {}
"""By name, what builds each pair; names begin with the file's."""


def example(build: Callable[["Source"], Pair]) -> Callable[["Source"], Pair]:
    EXAMPLES[build.__name__] = build
    return build


def several(name: str, choices: Iterable[Any]) -> Callable[[Callable[..., Pair]], Callable[..., Pair]]:
    """Enter one example for each choice, as NAME_CHOICE."""

    def enter(build: Callable[..., Pair]) -> Callable[..., Pair]:
        for choice in choices:
            EXAMPLES[f"{name}_{choice}"] = lambda source, choice=choice: build(source, choice)
        return build

    return enter


ABSENT = ("horovod", "scanpy", "seaborn", "visdom", "wget")
"""Packages that some examples import for their data and pictures alone: where they are not installed, nothing is."""


class Source:
    """A folder that holds `examples` and `tutorial/source`, as Pyro's repository does.

    Args:
        folder: its path.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def file(self, path: str) -> Any:
        """Import an example by its path in `examples`, without running its main."""
        full = self.folder / "examples" / path
        name = "pyro_example_" + full.stem.replace("-", "_")
        spec = importlib.util.spec_from_file_location(name, full)
        assert spec is not None, path
        assert spec.loader is not None, path
        module = importlib.util.module_from_spec(spec)
        before, known = list(sys.path), set(sys.modules)
        sys.modules |= {name: MagicMock() for name in ABSENT if importlib.util.find_spec(name) is None}
        sys.path[:0] = [str(full.parent), str(self.folder), str(self.folder / "examples")]
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path[:] = before
            for other in set(sys.modules) - known:  # siblings such as `data`, which another example has too
                if str(self.folder) in str(getattr(sys.modules[other], "__file__", "")) or other in ABSENT:
                    del sys.modules[other]
            torch.set_default_dtype(torch.float64)
        return module

    def inner(self, path: str, function: str, **known: Any) -> dict[str, Any]:
        """Run the functions that are defined within a function of an example, and return them by name."""
        text = (self.folder / "examples" / path).read_text()
        outer = next(n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name == function)
        return self._run([n for n in outer.body if isinstance(n, ast.FunctionDef)], path, known)

    def cells(self, notebook: str, numbers: Iterable[int], **known: Any) -> dict[str, Any]:
        """Run the definitions in some code cells of a tutorial: imports, functions, classes; nothing else of them.

        Args:
            notebook: its name in `tutorial/source`.
            numbers: of the code cells, from 0.
            known: what the definitions read, as data.
        """
        cells = json.loads((self.folder / "tutorial" / "source" / f"{notebook}.ipynb").read_text())["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        nodes: list[ast.stmt] = []
        for number in numbers:
            lines = [line for line in code[number].splitlines() if not line.startswith(("%", "!"))]
            nodes += ast.parse("\n".join(lines)).body
        kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
        return self._run([node for node in nodes if isinstance(node, kinds)], notebook, known)

    def _run(self, nodes: list[Any], name: str, known: dict[str, Any]) -> dict[str, Any]:
        space: dict[str, Any] = {"__name__": name, "torch": torch, "pyro": pyro, "dist": dist, "poutine": poutine}
        space |= {"nn": torch.nn, "math": math, "partial": partial} | known
        for node in nodes:
            single = ast.fix_missing_locations(ast.Module([node], []))
            optional = contextlib.suppress(Exception) if isinstance(node, ast.Import | ast.ImportFrom) else None
            with optional or contextlib.nullcontext(), contextlib.redirect_stdout(io.StringIO()):
                exec(compile(single, name, "exec"), space)
        torch.set_default_dtype(torch.float64)
        return space | known


def counts(*shape: int, rate: float = 3.0) -> torch.Tensor:
    return torch.poisson(torch.full(shape, rate))


def binary(*shape: int) -> torch.Tensor:
    return torch.bernoulli(torch.full(shape, 0.5))


# -- examples ----------------------------------------------------------------------------------------------------------


@several("baseball", ("fully_pooled", "not_pooled", "partially_pooled", "partially_pooled_with_logit"))
def baseball(source: Source, name: str) -> Pair:
    model = getattr(source.file("baseball.py"), name)
    at_bats = torch.full((6,), 45.0)
    return Pair(model, AutoDiagonalNormal(model), (at_bats, dist.Binomial(45, torch.full((6,), 0.3)).sample()))


@several("dmm", (0, 1))
def dmm(source: Source, iafs: int) -> Pair:
    net = source.file("dmm.py").DMM(
        input_dim=5, z_dim=3, emission_dim=4, transition_dim=4, rnn_dim=6, num_iafs=iafs, iaf_dim=4
    )
    lengths = torch.tensor([4, 3, 2])
    batch = binary(3, 4, 5)
    mask = (torch.arange(4) < lengths[:, None]).double()
    reverse = torch.zeros_like(batch)
    for i, length in enumerate(lengths):
        reverse[i, :length] = batch[i, :length].flip(0)
    packed = torch.nn.utils.rnn.pack_padded_sequence(reverse, lengths, batch_first=True)
    return Pair(net.model, net.guide, (batch, packed, mask, lengths))


@several("hmm", range(8))
def hmm(source: Source, number: int) -> Pair:
    module = source.file("hmm.py")
    model = getattr(module, f"model_{number}")
    args = SimpleNamespace(hidden_dim=2, nn_dim=4, nn_channels=2, jit=False, raftery_parameterization=False)
    lengths = torch.tensor([3, 2, 3])
    sequences = binary(3, 3, 2)
    guide = AutoDelta(poutine.block(model, expose_fn=lambda msg: msg["name"].startswith("probs_")))
    nesting = 1 if number == 0 else 2
    return Pair(model, guide, (sequences, lengths), {"args": args, "batch_size": None}, nesting=nesting)


@example
def inclined_plane(source: Source) -> Pair:
    module = source.file("inclined_plane.py")
    short = [torch.tensor(2.1), torch.tensor(2.2)]
    return Pair(module.model, poutine.block(module.model, expose=["mu"]), (short,))  # its own proposal is the prior


@example
def lda(source: Source) -> Pair:
    module = source.file("lda.py")
    args = SimpleNamespace(num_topics=2, num_words=6, num_docs=4, num_words_per_doc=5, layer_sizes="5", batch_size=4)
    data = torch.randint(0, 6, (5, 4))
    predictor = module.make_predictor(args)
    return Pair(module.model, partial(module.parametrized_guide, predictor), (data, args, None), nesting=2)


@example
def lda_subsampled(source: Source) -> Pair:
    pair = lda(source)
    return Pair(pair.model, pair.guide, (*pair.args[:2], 2), nesting=2)


@example
def lkj(source: Source) -> Pair:
    module = source.file("lkj.py")
    return Pair(module.model, AutoNormal(module.model), (torch.randn(8, 2),))


@example
def minipyro(source: Source) -> Pair:
    space = source.inner("minipyro.py", "main", ops=torch)
    return Pair(space["model"], space["guide"], (torch.randn(10) + 3,))


@example
def neutra(source: Source) -> Pair:
    module = source.file("neutra.py")
    return Pair(module.model, AutoDiagonalNormal(module.model), (torch.tensor(1.15), torch.tensor(1.0)))


@several("sir_hmc", ("discrete_model", "reparameterized_discrete_model", "continuous_model", "vectorized_model"))
def sir_hmc(source: Source, name: str) -> Pair:
    module = source.file("sir_hmc.py")
    args = SimpleNamespace(population=6, recovery_time=3.0)
    module.args = args
    model, data = getattr(module, name), torch.tensor([0.0, 1.0, 1.0])
    shown = ["R0", "rho", "S_aux", "I_aux"]

    def init(site: Any) -> torch.Tensor:
        if site["name"] == "S_aux":
            return torch.tensor([4.6, 3.6, 2.6])
        if site["name"] == "I_aux":
            return torch.tensor([1.6, 2.4, 2.6])
        return init_to_median(site)

    guide: Any = AutoNormal(poutine.block(model, expose=shown), init_loc_fn=init, init_scale=0.01)
    return Pair(model, guide, (args, data))


@several("sparse_gamma_def", ("custom", "easy", "auto"))
def sparse_gamma_def(source: Source, kind: str) -> Pair:
    module = source.file("sparse_gamma_def.py")
    program = module.SparseGammaDEF()
    program.top_width, program.mid_width, program.bottom_width, program.image_size = 3, 2, 2, 4
    for name in ("alpha_z", "beta_z", "alpha_w", "beta_w"):
        setattr(program, name, getattr(program, name).double())
    guides = {"custom": program.guide, "easy": module.MyEasyGuide(program.model)}
    guides["auto"] = AutoDiagonalNormal(program.model, init_loc_fn=module.init_to_feasible)
    return Pair(program.model, guides[kind], (counts(5, 4),))


@example
def sparse_regression(source: Source) -> Pair:
    module = source.file("sparse_regression.py")
    hypers = dict(expected_sparsity=1.0, alpha1=3.0, beta1=1.0, alpha2=3.0, beta2=1.0, alpha3=1.0, c=1.0)
    guide = AutoDelta(module.model, init_loc_fn=module.init_loc_fn)
    return Pair(module.model, guide, (torch.randn(6, 3), torch.randn(6), hypers))


@several("svi", ("horovod", "lightning", "torch"))
def svi(source: Source, name: str) -> Pair:
    path = source.folder / "examples" / f"svi_{name}.py"
    tree = ast.parse(path.read_text())
    nodes = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    nodes += [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Model"]
    space = source._run(nodes, path.name, {})
    model = space["Model"](8)
    return Pair(model, AutoNormal(model), (torch.randn(8), torch.randn(8)))


@example
def svi_torch_minibatch(source: Source) -> Pair:
    pair = svi(source, "torch")
    return Pair(pair.model, AutoNormal(pair.model), (torch.randn(4), torch.randn(4)))


@example
def toy_mixture(source: Source) -> Pair:
    module = source.file("toy_mixture_model_discrete_enumeration.py")
    prior, _, data = module.generate_data(6)
    return Pair(module.model, module.guide, (prior, data, 6), nesting=1)


@several("air", ("whole", "subsampled"))
def air(source: Source, kind: str) -> Pair:
    net = source.file("air/air.py").AIR(
        num_steps=2, x_size=6, window_size=4, z_what_size=2, rnn_hidden_size=5,
        encoder_net=[4], decoder_net=[4], predict_net=[4], bl_predict_net=[4],
    )  # fmt: skip
    return Pair(net.double().model, net.guide, (torch.rand(4, 6, 6), 2 if kind == "subsampled" else 4))


@several("cjs", (1, 2, 3, 4, 5))
def cjs(source: Source, number: int) -> Pair:
    model = getattr(source.file("capture_recapture/cjs.py"), f"model_{number}")
    history = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    guide = AutoDiagonalNormal(poutine.block(model, expose_fn=lambda msg: msg["name"][:3] in ("phi", "rho")))
    return Pair(model, guide, (history, torch.tensor([0.0, 1.0, 1.0, 0.0])), nesting=1)


@example
def cvae(source: Source) -> Pair:
    module = source.file("cvae/cvae.py")
    baseline = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 784), torch.nn.Sigmoid())
    net = module.CVAE(2, 4, 4, baseline)
    ys = binary(3, 28, 28)
    xs = ys.clone()
    xs[:, :14, :14] = -1
    return Pair(net.model, net.guide, (xs, ys))


@example
def eight_schools_svi(source: Source) -> Pair:
    module = source.file("eight_schools/svi.py")
    return Pair(module.model, module.guide, (module.data.double(),))


@example
def eight_schools_mcmc(source: Source) -> Pair:
    module = source.file("eight_schools/mcmc.py")
    model = partial(module.conditioned_model, module.model)
    return Pair(model, AutoDiagonalNormal(model), (module.data.sigma.double(), module.data.y.double()))


@several("mixed_hmm", ("none_none", "discrete_none", "none_discrete", "continuous_none", "continuous_continuous"))
def mixed_hmm(source: Source, effects: str) -> Pair:
    module = source.file("mixed_hmm/model.py")
    group, individual = (kind if kind != "none" else None for kind in effects.split("_"))
    shape = (2, 2, 3)
    config = {
        "MISSING": 1e-6,
        "sizes": {"state": 2, "random": 3, "group": 2, "individual": 2, "timesteps": 3},
        "group": {"random": group, "fixed": None},
        "individual": {"random": individual, "fixed": None, "mask": torch.tensor([[True, True], [True, False]])},
        "timestep": {"random": None, "fixed": None, "mask": torch.ones(shape, dtype=torch.bool)},
        "observations": {
            "step": torch.rand(shape) + 0.1,
            "angle": torch.rand(shape),
            "omega": 0.1 + 0.8 * torch.rand(shape),
        },
    }
    config["observations"]["step"][0, 0, 0] = 1e-6
    return Pair(partial(module.model_generic, config), partial(module.guide_generic, config), nesting=2)


@several("scanvi", ("labelled", "unlabelled"))
def scanvi(source: Source, kind: str) -> Pair:
    path = source.folder / "examples" / "scanvi/scanvi.py"
    tree = ast.parse(path.read_text())
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    space = source._run([n for n in tree.body if isinstance(n, kinds)], path.name, {})
    net = space["SCANVI"](5, 3, 1.0, 0.5, latent_dim=2, scale_factor=1.0 / 20)
    guide = config_enumerate(net.guide, "parallel", expand=True)
    labels = torch.eye(3)[torch.tensor([0, 1, 2, 1])] if kind == "labelled" else None
    return Pair(net.model, guide, (counts(4, 5), labels), nesting=1)


@several("ss_vae", ("labelled", "unlabelled", "classify"))
def ss_vae(source: Source, kind: str) -> Pair:
    net = source.file("vae/ss_vae_M2.py").SSVAE(
        output_size=3, input_size=6, z_dim=2, hidden_layers=[4], config_enum="parallel", aux_loss_multiplier=3
    )
    ys = torch.eye(3)[torch.tensor([0, 1, 2, 1])]
    if kind == "classify":
        return Pair(net.model_classify, net.guide_classify, (binary(4, 6), ys))
    guide = config_enumerate(net.guide, "parallel", expand=True)
    return Pair(net.model, guide, (binary(4, 6),) if kind == "unlabelled" else (binary(4, 6), ys), nesting=1)


@example
def vae(source: Source) -> Pair:
    net = source.file("vae/vae.py").VAE(z_dim=2, hidden_dim=4)
    return Pair(net.model, net.guide, (binary(3, 1, 28, 28),))


@example
def vae_comparison(source: Source) -> Pair:
    module = source.file("vae/vae_comparison.py")
    program = module.PyroVAEImpl(SimpleNamespace(jit=False, batch_size=3), None, None)
    return Pair(program.model, program.guide, (binary(3, 1, 28, 28),))


@example
def autoname_mixture(source: Source) -> Pair:
    module = source.file("contrib/autoname/mixture.py")
    return Pair(module.model, module.guide, (torch.tensor([0.0, 1.0, 20.0]),), {"k": 2})


@example
def autoname_scoping_mixture(source: Source) -> Pair:
    module = source.file("contrib/autoname/scoping_mixture.py")
    return Pair(module.model, config_enumerate(module.guide), (2, torch.tensor([0.0, 1.0, 20.0])), nesting=1)


@example
def autoname_tree_data(source: Source) -> Pair:
    module = source.file("contrib/autoname/tree_data.py")
    one = torch.tensor(1.0)
    return Pair(module.model, module.guide, ({"foo": one, "bar": [0 * one, 2 * one], "baz": {"noun": 4 * one}},))


@example
def cevae(source: Source) -> Pair:
    module = source.file("contrib/cevae/synthetic.py")
    x, t, y, _ = module.generate_data(SimpleNamespace(num_data=5, feature_dim=2))
    net = module.CEVAE(feature_dim=2, latent_dim=2, hidden_dim=4, num_layers=2, num_samples=2)
    net.whiten = type(net.whiten)(x) if hasattr(net, "whiten") else None
    x = (x - x.mean(0)) / x.std(0)
    return Pair(net.model, net.guide, (x, t, y))


@several("epidemiology", ("sir", "regional"))
def epidemiology(source: Source, kind: str) -> Pair:
    module = source.file(f"contrib/epidemiology/{kind}.py")
    args = SimpleNamespace(
        population=12, recovery_time=3.0, heterogeneous=False, incubation_time=0, overdispersion=0,
        concentration=math.inf, num_regions=2, coupling=0.1,
    )  # fmt: skip
    data = torch.tensor([1.0, 1.0, 2.0])
    compartmental = module.Model(args, torch.stack([data, data], -1) if kind == "regional" else data)
    return epidemic(compartmental)


def epidemic(compartmental: Any) -> Pair:
    """The pair that `CompartmentalModel.fit_svi` trains: the model vectorised over time, and its Normal guide."""
    compartmental.relaxed, compartmental.num_quant_bins = True, 1
    init = compartmental._heuristic(None, num_particles=100, ess_threshold=0.5)
    model = compartmental._relaxed_model
    guide = AutoNormal(model, init_loc_fn=init, init_scale=0.01)
    return Pair(model, guide, nesting=compartmental.max_plate_nesting)


@example
def forecast_bart(source: Source) -> Pair:
    model = source.file("contrib/forecast/bart.py").Model()
    return Pair(model, AutoNormal(model), (torch.randn(6, 2), torch.zeros(6, 0)))


@example
def gp_sv_dkl(source: Source) -> Pair:
    module = source.file("contrib/gp/sv-dkl.py")
    gp = module.gp
    kernel = gp.kernels.Warping(gp.kernels.RBF(input_dim=10, lengthscale=torch.ones(10)), iwarping_fn=module.CNN())
    images = torch.randn(4, 1, 28, 28)
    gpmodule = gp.models.VariationalSparseGP(
        X=images, y=torch.tensor([0, 1, 2, 3]), kernel=kernel, Xu=images[:2].clone(), whiten=True, jitter=2e-6,
        likelihood=gp.likelihoods.MultiClass(num_classes=10), latent_shape=torch.Size([10]), num_data=40,
    )  # fmt: skip
    return Pair(gpmodule.model, gpmodule.guide)


@several("mue", ("FactorMuE", "ProfileHMM"))
def mue(source: Source, name: str) -> Pair:
    module = source.file(f"contrib/mue/{name}.py")
    dataset = module.generate_data(True, False, torch.device("cpu"))
    data = torch.stack([dataset[i][0] for i in range(len(dataset))]).double()
    lengths = torch.stack([dataset[i][1] for i in range(len(dataset))]).double()
    if name == "ProfileHMM":
        net = module.ProfileHMM(6, dataset.alphabet_length, pin_memory=False)
        return Pair(net.model, net.guide, (data, torch.tensor(len(dataset) / len(data))))
    net = module.FactorMuE(dataset.max_length, dataset.alphabet_length, 2, batch_size=3, pin_memory=False)
    scale, anneal = torch.tensor(1.0), torch.tensor(1.0)
    net._beta_anneal = getattr(net, "_beta_anneal", None)
    return Pair(net.model, net.guide, ((data, lengths)[0], scale, anneal))


@example
def oed_ab_test(source: Source) -> Pair:
    module = source.file("contrib/oed/ab_test.py")
    design = module.group_assignment_matrix(torch.tensor([3, 2])).double()
    model, guide = module.zero_mean_unit_obs_sd_lm(torch.tensor([10.0, 2.5]))
    y = torch.randn(5)
    return Pair(poutine.condition(model, {"y": y}), guide, (design,))


@example
def oed_gp_bayes_opt(source: Source) -> Pair:
    gp = source.file("contrib/oed/ab_test.py").gp
    kernel = gp.kernels.Matern52(input_dim=1, lengthscale=torch.tensor(10.0))
    process = gp.models.GPRegression(torch.tensor([25.0, 75.0]), torch.randn(2), kernel, noise=torch.tensor(0.25))
    return Pair(process.model, process.guide)


# -- tutorials ---------------------------------------------------------------------------------------------------------


@example
def tutorial_air(source: Source) -> Pair:
    space = source.cells("air", [0, 2, 3, 8, 9, 11, 13, 14, 15, 16], z_where_prior_loc=torch.tensor([3.0, 0.0, 0.0]))
    from collections import namedtuple

    fields = ["h", "c", "bl_h", "bl_c", "z_pres", "z_where", "z_what"]
    space |= {
        "relu": torch.relu, "sigmoid": torch.sigmoid, "decode": space["Decoder"](), "encode": space["Encoder"](),
        "predict": space["Predict"](), "rnn": torch.nn.LSTMCell(2554, 256), "bl_rnn": torch.nn.LSTMCell(2554, 256),
        "bl_predict": torch.nn.Linear(256, 1), "z_where_prior_scale": torch.tensor([0.1, 1.0, 1.0]),
        "z_what_prior_loc": torch.zeros(50), "z_what_prior_scale": torch.ones(50),
        "GuideState": namedtuple("GuideState", fields),
    }  # fmt: skip
    share(space)
    return Pair(space["model"], space["guide"], (torch.rand(64, 2500),))


def share(space: dict[str, Any]) -> None:
    """Let the functions of a namespace read what was added to it: they hold the dict that they were defined in."""
    for thing in list(space.values()):
        inner = getattr(thing, "__wrapped__", thing)
        if hasattr(inner, "__globals__") and inner.__globals__.get("__name__") == space["__name__"]:
            inner.__globals__.update(space)


RUGGED = (binary(12), torch.rand(12) * 5, 8 + torch.randn(12))


@example
def tutorial_bayesian_regression(source: Source) -> Pair:
    space = source.cells("bayesian_regression", [7, 8], **{"PyroModule": pyro.nn.PyroModule})
    model = space["BayesianRegression"](3, 1)
    return Pair(model, AutoDiagonalNormal(model), (torch.randn(10, 3), 8 + torch.randn(10)))


@example
def tutorial_bayesian_regression_ii(source: Source) -> Pair:
    space = source.cells("bayesian_regression_ii", [1, 3])
    return Pair(space["model"], space["guide"], RUGGED)


@example
def tutorial_boosting_bbvi(source: Source) -> Pair:
    space = source.cells("boosting_bbvi", [0, 1, 2])
    return Pair(space["model"], partial(space["guide"], index=0), (4 + 0.1 * torch.randn(10),))


@example
def tutorial_csis(source: Source) -> Pair:
    space = source.cells("csis", [0, 1, 2])
    observations = {"x1": torch.tensor(8.0), "x2": torch.tensor(9.0)}
    return Pair(space["model"], space["Guide"](), (torch.tensor(1.0),), {"observations": observations})


@several("tutorial_dirichlet_process", ("gaussian", "poisson"))
def tutorial_dirichlet_process(source: Source, kind: str) -> Pair:
    numbers = [0, 2, 3, 4] if kind == "gaussian" else [0, 2, 7]
    space = source.cells("dirichlet_process_mixture", numbers, T=3, N=6, alpha=0.5)
    return Pair(space["model"], space["guide"], (torch.randn(6, 2) if kind == "gaussian" else counts(6),))


@several("tutorial_easyguide", (3, 6, 8))
def tutorial_easyguide(source: Source, cell: int) -> Pair:
    space = source.cells("easyguide", [0, 1, cell], rank=2)
    return Pair(space["model"], space["guide"], (binary(3, 4), torch.arange(4)), {"full_size": 8})


@example
def tutorial_effect_handlers(source: Source) -> Pair:
    space = source.cells("effect_handlers", [0, 1])
    model = poutine.condition(space["scale"], {"measurement": torch.tensor(9.5)})
    return Pair(model, AutoNormal(model), (8.5,))


@example
def tutorial_ekf(source: Source) -> Pair:
    space = source.cells("ekf", [0, 3], i=0, num_frames=4)
    space["model"].__globals__.update(ncv=space["NcvContinuous"](4, 2.0), xs_truth=torch.zeros(4, 4))
    return Pair(space["model"], AutoDelta(space["model"]), (1e-3 * torch.randn(4, 2),))


@example
def tutorial_elections(source: Source) -> Pair:
    votes = torch.tensor([3.0, 5.0, 4.0])
    space = source.cells(
        "elections", [2, 6], ec_votes_tensor=votes, prior_mean=torch.zeros(3), prior_covariance=torch.eye(3)
    )
    model = poutine.condition(space["model"], {"y": torch.tensor([4.0, 6.0, 5.0])})
    guide = AutoNormal(poutine.block(model, hide=["w"]))
    return Pair(model, guide, (torch.full((3,), 10.0),))


@several("tutorial_enumeration", (1, 4, 6, 7, 8, 9, 11))
def tutorial_enumeration(source: Source, cell: int) -> Pair:
    space = source.cells("enumeration", [0, cell], print=lambda *_: None)
    if cell == 1:
        return Pair(space["model"], space["guide"], nesting=0)
    if cell in (4, 6, 7):
        return Pair(space["model"], space["guide"], nesting={4: 0, 6: 1, 7: 2}[cell])
    if cell == 8:
        guide = AutoNormal(poutine.block(space["model"], hide=["x", "data"]))
        return Pair(space["model"], guide, (torch.randn(6),), nesting=1)
    model = space["hmm_model"]
    guide = AutoNormal(poutine.block(model, expose=["transition", "emission"]))
    data = torch.randint(0, 4, (3, 4))[:, 0] if cell == 11 else torch.randint(0, 4, (3,))
    return Pair(model, guide, (data,), {"data_dim": 4, "hidden_dim": 2}, nesting=1)


@several("tutorial_epi_intro", ("SimpleSIRModel", "RegionalSIRModel"))
def tutorial_epi_intro(source: Source, name: str) -> Pair:
    space = source.cells("epi_intro", [0, 1, 16])
    data = torch.tensor([1.0, 1.0, 2.0])
    if name == "SimpleSIRModel":
        return epidemic(space[name](12, 3.0, data))
    return epidemic(space[name](torch.full((2,), 12.0), torch.eye(2).clamp(min=0.1), 3.0, torch.stack([data] * 2, -1)))


@several("tutorial_forecasting_dlm", ("DLM", "DLM2"))
def tutorial_forecasting_dlm(source: Source, name: str) -> Pair:
    space = source.cells("forecasting_dlm", [0, 3, 10], time_points=[1, 3], priors=torch.zeros(2, 2))
    model = space[name]()
    return Pair(model, AutoNormal(model, init_scale=0.1), (torch.randn(5, 1), torch.randn(5, 3)))


@several("tutorial_forecasting_i", (1, 2, 3))
def tutorial_forecasting_i(source: Source, number: int) -> Pair:
    space = source.cells("forecasting_i", [0, 3, 11, 15])
    model = space[f"Model{number}"]()
    program: Any = model
    if number > 1:
        from pyro.contrib.forecast.util import time_reparam_dct

        program = poutine.reparam(model, time_reparam_dct)
    return Pair(program, AutoNormal(program, init_scale=0.1), (torch.randn(6, 1), torch.randn(6, 2)))


@several("tutorial_forecasting_ii", (1, 2, 3))
def tutorial_forecasting_ii(source: Source, number: int) -> Pair:
    space = source.cells("forecasting_ii", [0, 5, 8, 12], means=torch.zeros(24 * 7))
    model = space[f"Model{number}"]()
    return Pair(model, AutoNormal(model, init_scale=0.1), (torch.randn(5, 1), torch.zeros(5, 0)))


@several("tutorial_forecasting_iii", (1, 2))
def tutorial_forecasting_iii(source: Source, number: int) -> Pair:
    space = source.cells("forecasting_iii", [0, 3, 8])
    model = space[f"Model{number}"]()
    data = torch.randn(5, 3) if number == 1 else torch.randn(2, 2, 5, 1)
    return Pair(model, AutoNormal(model, init_scale=0.1), (data, torch.zeros(5, 0)))


@several("tutorial_gmm", ("global", "full"))
def tutorial_gmm(source: Source, kind: str) -> Pair:
    space = source.cells("gmm", [0, 2, 14], K=2)
    model, data = space["model"], torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0])
    guide = AutoDelta(poutine.block(model, expose=["weights", "locs", "scale"]))
    globals_of(space["full_guide"])["global_guide"] = guide
    guide(data)
    return Pair(model, guide if kind == "global" else space["full_guide"], (data,), nesting=1)


def globals_of(function: Any) -> dict[str, Any]:
    """The namespace that a decorated function was defined in."""
    while not hasattr(function, "__globals__") or "__wrapped__" in vars(function):
        function = function.__wrapped__
    return function.__globals__


@several("tutorial_gp", ("GPRegression", "SparseGPRegression", "VariationalSparseGP", "VariationalGP"))
def tutorial_gp(source: Source, name: str) -> Pair:
    gp = source.cells("gp", [0])["gp"]
    x, kernel = torch.linspace(0, 5, 6), gp.kernels.RBF(input_dim=1)
    y = torch.sin(x)
    if name == "GPRegression":
        process = gp.models.GPRegression(x, y, kernel, noise=torch.tensor(0.2))
    elif name == "SparseGPRegression":
        process = gp.models.SparseGPRegression(x, y, kernel, Xu=x[::2].clone(), jitter=1e-5)
    elif name == "VariationalSparseGP":
        process = gp.models.VariationalSparseGP(
            x, y, kernel, Xu=x[::2].clone(), likelihood=gp.likelihoods.Gaussian(), whiten=True
        )
    else:
        x, y = torch.randn(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
        process = gp.models.VariationalGP(
            x, y, gp.kernels.RBF(input_dim=2), likelihood=gp.likelihoods.MultiClass(num_classes=3),
            latent_shape=torch.Size([3]), whiten=True, jitter=1e-4,
        )  # fmt: skip
    return Pair(process.model, process.guide)


@example
def tutorial_gplvm(source: Source) -> Pair:
    space = source.cells("gplvm", [0])
    gp, prior = space["gp"], torch.zeros(5, 2)
    kernel = gp.kernels.RBF(input_dim=2, lengthscale=torch.ones(2))
    places = torch.nn.Parameter(prior.clone())
    process = gp.models.SparseGPRegression(
        places, torch.randn(3, 5), kernel, torch.randn(2, 2), noise=torch.tensor(0.01), jitter=1e-5
    )
    process.X = pyro.nn.PyroSample(dist.Normal(prior, 0.1).to_event())
    process.autoguide("X", dist.Normal)
    return Pair(process.model, process.guide)


@several("tutorial_intro_long", ("simple", "custom", "auto"))
def tutorial_intro_long(source: Source, kind: str) -> Pair:
    space = source.cells("intro_long", [7, 9, 10])
    if kind == "simple":
        return Pair(space["simple_model"], lambda *_, **__: None, RUGGED)
    guide = AutoNormal(space["model"]) if kind == "auto" else space["custom_guide"]
    return Pair(space["model"], guide, RUGGED)


@several("tutorial_intro_part_ii", ("perfect", "parametrised"))
def tutorial_intro_part_ii(source: Source, kind: str) -> Pair:
    space = source.cells("intro_part_ii", [0, 1, 5, 8])
    model = poutine.condition(space["scale"], {"measurement": torch.tensor(9.5)})
    guides = {"perfect": space["perfect_guide"], "parametrised": space["scale_parametrized_guide_constrained"]}
    log_p = dist.Normal(8.5, 1.25).log_prob(torch.tensor(9.5))
    return Pair(model, guides[kind], (8.5,), log_p=log_p, exact=kind == "perfect")


@several("tutorial_jit", ("regression", "hmm"))
def tutorial_jit(source: Source, kind: str) -> Pair:
    space = source.cells("jit", [0, 1 if kind == "regression" else 6])
    model = space["model"]
    if kind == "regression":
        return Pair(model, AutoDiagonalNormal(model), (torch.randn(8),))
    guide = AutoDiagonalNormal(poutine.block(model, expose=["trans", "emit_scale", "emit_loc"]))
    return Pair(model, guide, (torch.randn(3),), {"num_sequences": 2, "length": 3, "state_dim": 2}, nesting=1)


@several("tutorial_logistic_growth", ("basic_model", "regional_model", "regional_model2"))
def tutorial_logistic_growth(source: Source, name: str) -> Pair:
    space = source.cells("logistic-growth", [8, 16, 20], dataset={"time_step_days": 14})
    data = counts(4, 2) if name == "basic_model" else counts(4, 3, 2)
    model = partial(space[name], data)
    return Pair(model, AutoNormal(model, init_scale=0.01))


@several("tutorial_mle_map", ("mle", "map", "masked", "auto_map", "uniform"))
def tutorial_mle_map(source: Source, kind: str) -> Pair:
    space = source.cells("mle_map", [0, 1, 3, 5, 11, 15, 18])
    data = torch.tensor([1.0] * 6 + [0.0] * 4)
    model = space[
        {"mle": "model_mle", "masked": "masked_model", "uniform": "original_model_uniform_prior"}.get(
            kind, "original_model"
        )
    ]
    guide = {"mle": space["guide_mle"], "map": space["guide_map"]}.get(kind) or AutoDelta(model)
    return Pair(model, guide, (data,))


@several("tutorial_model_rendering", ("simple", "mace", "params", "plates", "deterministic"))
def tutorial_model_rendering(source: Source, kind: str) -> Pair:
    cell = {"simple": 1, "mace": 4, "params": 7, "plates": 10, "deterministic": 14}[kind]
    space = source.cells("model_rendering", [0, cell])
    model = space[{"mace": "mace", "deterministic": "model_deterministic"}.get(kind, "model")]
    if kind == "mace":
        model = config_enumerate(model)
        guide = AutoNormal(poutine.block(model, expose=["ε", "θ"]))
        return Pair(model, guide, (torch.tensor([0, 1, 1]), torch.randint(0, 3, (4, 3))), nesting=2)
    return Pair(model, AutoNormal(model), () if kind == "plates" else (torch.randn(5),))


@several("tutorial_modules", ("GlobalModel", "LocalModel", "Model"))
def tutorial_modules(source: Source, name: str) -> Pair:
    known = {"PyroModule": pyro.nn.PyroModule, "PyroSample": pyro.nn.PyroSample}
    space = source.cells("modules", [9, 10, 11], **known)
    if name == "Model":
        model = space[name](3, 2)
        return Pair(model, AutoNormal(model), (torch.randn(6, 3), torch.randn(6, 2)))
    model = space[name]()
    return Pair(model, AutoNormal(model), (torch.randn(6),))


@several("tutorial_predictive_deterministic", ("custom", "auto"))
def tutorial_predictive_deterministic(source: Source, kind: str) -> Pair:
    space = source.cells("predictive_deterministic", [0, 3, 17])
    guide = space["guide"] if kind == "custom" else AutoNormal(space["model"])
    return Pair(space["model"], guide, (torch.randn(6, 1), counts(6)))


@several("tutorial_prior_predictive", (2, 5, 12))
def tutorial_prior_predictive(source: Source, cell: int) -> Pair:
    space = source.cells("prior_predictive", [cell])
    model = space["model2" if cell == 5 else "model"]
    return Pair(model, AutoNormal(model), (), {"T": 5, "data": torch.randn(5)})


@several("tutorial_prodlda", ("dice", "categorical", "prodlda"))
def tutorial_prodlda(source: Source, kind: str) -> Pair:
    if kind == "dice":
        model = source.cells("prodlda", [0, 1])["model"]
        return Pair(model, AutoNormal(model), (torch.tensor([3.0, 1.0, 4.0, 2.0, 5.0, 2.0]),))
    if kind == "categorical":
        model = source.cells("prodlda", [0, 3])["model"]
        return Pair(model, AutoNormal(model), (torch.tensor([0, 1, 5, 3, 2, 2]),))
    net = source.cells("prodlda", [8, 9])["ProdLDA"](5, 2, 4, 0.2)
    return Pair(net.model, net.guide, (counts(6, 5),))


@several("tutorial_stable", ("reparam", "dct"))
def tutorial_stable(source: Source, kind: str) -> Pair:
    model = source.cells("stable", [0, 8])["model"]
    config: dict[str, Any] = {"v": DiscreteCosineReparam()}
    if kind == "reparam":
        config["r"] = StableReparam()
    program = poutine.reparam(model, config)
    return Pair(program, AutoDiagonalNormal(program), (0.01 * torch.randn(5),))


@example
def tutorial_svi_flow_guide(source: Source) -> Pair:
    """With an autoregressive flow of Pyro's own in place of the spline flow of `zuko`, which need not be installed."""
    space = source.cells("svi_flow_guide", [0, 1])
    prior = dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1)
    space["model"].__globals__.update(prior=prior)
    from pyro.distributions.transforms import conditional_affine_autoregressive as conditional

    net = conditional(3, 10, hidden_dims=[8])

    def guide(x: torch.Tensor) -> None:
        pyro.module("flow", net)
        base = dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1)
        with pyro.plate("data", x.shape[1]):
            context = x.transpose(0, 1).flatten(-2)
            pyro.sample("z", dist.ConditionalTransformedDistribution(base, [net]).condition(context))

    return Pair(space["model"], guide, (torch.randn(5, 3, 2),))


@example
def tutorial_svi_part_i(source: Source) -> Pair:
    space = source.cells("svi_part_i", [0])
    return Pair(space["model"], space["guide"], ([torch.tensor(1.0)] * 6 + [torch.tensor(0.0)] * 4,))


@example
def tutorial_svi_part_iii(source: Source) -> Pair:
    program = source.cells("svi_part_iii", [0])["BernoulliBetaExample"](1)
    return Pair(program.model, program.guide, (True,))


@several("tutorial_tensor_shapes", (1, 2, 4))  # 3 asserts shapes that it has when enumerated alone
def tutorial_tensor_shapes(source: Source, number: int) -> Pair:
    cell = {1: 6, 2: 8, 4: 11}[number]
    known = {"data": torch.arange(20.0), "enumerated": None, "width": 8, "height": 10}
    known["sparse_pixels"] = torch.tensor([[3, 2], [3, 5], [3, 9], [7, 1]])
    space = source.cells("tensor_shapes", [0, cell], **known)
    if number == 1:
        return Pair(space["model1"], space["model1"])
    if number == 2:
        return Pair(space["model2"], lambda: None)
    globals_of(space["fun"])["enumerated"] = False
    return Pair(space["model4"], space["guide4"], nesting=2)


@example
def tutorial_tracking_1d(source: Source) -> Pair:
    space = source.cells("tracking_1d", [0, 1, 2, 3, 4])
    args = SimpleNamespace(
        num_frames=3, max_num_objects=2, expected_num_objects=1.0, expected_num_spurious=1.0, emission_prob=0.8,
        emission_noise_scale=0.1,
    )  # fmt: skip
    observations = torch.stack([torch.randn(3, 3), torch.ones(3, 3)], -1)  # as many detections as objects, and one more
    return Pair(space["model"], space["guide"], (args, observations), nesting=2)


@example
def tutorial_vae(source: Source) -> Pair:
    net = source.cells("vae", [0, 3, 4, 7])["VAE"](z_dim=2, hidden_dim=4)
    return Pair(net.model, net.guide, (binary(3, 784),))


@several("tutorial_workflow", ("dense", "sparse", "lowrank", "reparam", "list", "local"))
def tutorial_workflow(source: Source, kind: str) -> Pair:
    table = counts(3, 2, 2)
    dataset = {"features": torch.randn(2, 3), "counts": table, "time_step_days": 14}
    index = table.nonzero().T
    sparse = {"index": index, "value": table[tuple(index)], "total": table.sum(-1)[table.sum(-1) > 0]}
    dataset["sparse_counts"] = sparse
    from pyro.ops.special import sparse_multinomial_likelihood

    space = source.cells(
        "workflow",
        [2 if kind == "dense" else 4, 19],
        sparse_multinomial_likelihood=sparse_multinomial_likelihood,
        constraints=dist.constraints,
    )
    model = space["model"]
    if kind in ("dense", "sparse"):
        return Pair(model, AutoNormal(model, init_scale=0.01), (dataset,))
    program = poutine.reparam(model, {"rate": LocScaleReparam(), "init": LocScaleReparam()})
    if kind == "reparam":
        return Pair(program, AutoNormal(program, init_scale=0.01), (dataset,))
    if kind == "lowrank":
        return Pair(program, AutoLowRankMultivariateNormal(program, init_scale=0.01, rank=2), (dataset,))
    guide = AutoGuideList(program)
    names = ["coef", "rate_scale", "init_scale"] if kind == "list" else ["rate_decentered", "init_decentered"]
    if kind == "list":
        guide.append(AutoLowRankMultivariateNormal(poutine.block(program, expose=names), init_scale=0.01, rank=2))
        guide.append(AutoNormal(poutine.block(program, hide=names), init_scale=0.01))
    else:
        guide.append(AutoLowRankMultivariateNormal(poutine.block(program, hide=names), init_scale=0.01, rank=2))
        globals_of(space["local_guide"])["guide"] = guide
        guide.append(space["local_guide"])
    return Pair(program, guide, (dataset,))


@several("tutorial_working_memory", ("accuracy", "time"))
def tutorial_working_memory(source: Source, kind: str) -> Pair:
    known = {"sensitivity": 1.0, "prior_mean": torch.tensor(7.0), "prior_sd": torch.tensor(2.0)}
    known |= {"time_intercept": 0.5, "time_scale": 0.5, "positive": dist.constraints.positive}
    space = source.cells("working_memory", [0 if kind == "accuracy" else 17, 2], **known)
    if kind == "accuracy":
        model, design = poutine.condition(space["model"], {"y": torch.tensor([1.0, 1.0, 0.0])}), [5.0, 7.0, 9.0]
        return Pair(model, space["guide"], (torch.tensor(design),))
    values = {"correct": torch.tensor(1.0), "time": torch.tensor(2.0)}
    return Pair(poutine.condition(space["model"], values), space["guide"], (torch.tensor(5.0),))
