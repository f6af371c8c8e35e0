"""The parts of a trained pair for other programs, which need neither Pyro nor this project: torch.export, ONNX."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_models.base.errors import UserError, first_line
from pyro_models.base.files import replace, write
from pyro_models.objectives.handlers import base_of
from pyro_models.runs.folder import Run

Format = Literal["torch", "onnx"]
SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}
TOLERANCE = 1e-4  # relative to the largest output: other programs add in another order


class Part(nn.Module):
    """A function of a pair's networks as a module of its own."""

    def __init__(self, pair: nn.Module, function: Callable[[Tensor], Any]):
        super().__init__()
        self.pair = pair
        self.function = function

    def forward(self, x: Tensor) -> Any:
        """Call the function."""
        return self.function(x)


def parts(run: Run) -> dict[str, tuple[Part, tuple[int, ...], str]]:
    """Return what can be exported of a run: by name a module, the shape of a datum that it takes, and what it does.

    Raises:
        UserError: the model has several levels of latents, or its decoder takes more than z.
    """
    recipe, model, guide, shape = run.recipe, run.model, run.guide, run.dataset.shape
    made: dict[str, tuple[Part, tuple[int, ...], str]] = {}
    classify: Any = getattr(guide, "classify", None)
    if classify is not None:
        categories = ", ".join(map(str, recipe.category_names(run.dataset)))
        made["classifier"] = Part(guide, lambda x: classify(x).probs), shape, f"x to q(y | x) of {categories}"
    if not hasattr(guide, "posterior"):
        return made
    if recipe.beside_z:
        raise UserError(f"{recipe.name} is not exported: what z decodes to depends on {recipe.beside_z}")
    if len(getattr(recipe, "latent_sites", ("z",))) > 1:
        raise UserError(f"{recipe.name} is not exported: it has several levels of latents")
    posterior: Any = guide.posterior

    def of_x(x: Tensor) -> dist.TorchDistribution:
        if classify is None:
            q = posterior(x)
        else:
            probs = classify(x).probs
            likeliest = probs == probs.amax(-1, keepdim=True)
            q = posterior(x, likeliest.to(probs.dtype))
        return base_of(q)

    likelihood: Any = model.likelihood_of
    made["encoder"] = Part(guide, lambda x: of_x(x).mean), shape, "x to the mean of q(z | x)"
    if not isinstance(of_x(torch.zeros(1, *shape, device=run.dataset.device)), dist.Delta):
        made["posterior"] = Part(guide, lambda x: (of_x(x).mean, of_x(x).stddev)), shape, "x to loc, scale of q(z | x)"
    with torch.no_grad():
        latent = tuple(made["encoder"][0](torch.zeros(1, *shape, device=run.dataset.device)).shape[1:])
    made["decoder"] = Part(model, lambda z: likelihood(z).mean), latent, "z to the mean of p(x | z)"
    return made


def export(run: Run, folder: Path | None = None, format: Format = "torch") -> list[Path]:
    """Write encoder, posterior, decoder and classifier, those that the model has, each for any number of data.

    Each is loaded again and run on other numbers of data, and compared with the pair.

    Args:
        run: a finished run.
        folder: where; None takes `export` in the run's folder.
        format: `torch` (.pt2, for `torch.export.load(path).module()`) or `onnx`.

    Returns:
        the files; signature.json among them says what each takes and gives.

    Raises:
        UserError: a package is missing, the model is not exported, or what was written gives other numbers.
    """
    if format == "onnx" and (missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]):
        raise UserError(f"`format=onnx` needs {' and '.join(missing)}: pip install 'pyro-stories[onnx]'")
    folder = folder or run.folder / "export"
    folder.mkdir(parents=True, exist_ok=True)
    paths, signature = [], {}
    with pyro.validation_enabled(False), torch.no_grad():
        for name, (part, shape, meaning) in parts(run).items():
            path = folder / f"{name}{SUFFIXES[format]}"
            part.eval()
            generator = torch.Generator().manual_seed(0)
            inputs = [torch.rand(n, *shape, generator=generator).to(run.dataset.device) for n in (3, 1, 5)]
            try:
                _write(part, inputs[0], path, format)
            except UserError:
                raise
            except Exception as error:  # torch's exporters raise many
                raise UserError(f"the {name} cannot be exported: {first_line(error)}", 1) from error
            again = _reader(path, format)
            for x in inputs:
                _compare(name, part(x), again(x))
            paths.append(path)
            signature[path.name] = {"does": meaning, "takes": ["batch", *shape], "x": _meaning(run)}
    write(folder / "signature.json", json.dumps(signature, indent=2) + "\n")
    return [*paths, folder / "signature.json"]


def _meaning(run: Run) -> Any:
    """Describe what x is: intensities, or the columns of a table with what was subtracted and divided by."""
    preprocessing = run.preprocessing
    if not preprocessing.is_table:
        return f"intensities of 0 to 1, {run.recipe.pixels} pixels"
    return [{"column": each.name, "loc": each.loc, "scale": each.scale} for each in preprocessing.columns]


def _write(part: Part, x: Tensor, path: Path, format: Format) -> None:
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(part, (x,), dynamic_shapes=shapes, strict=False)
    if format == "torch":
        replace(path, lambda beside: torch.export.save(program, beside))
    else:
        replace(path, lambda beside: torch.onnx.export(program, (x,), beside, dynamo=True, verbose=False))


def _reader(path: Path, format: Format) -> Callable[[Tensor], Any]:
    """Load what was written, as another program would."""
    if format == "torch":
        module: Any = torch.export.load(path).module()
        return module
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    return lambda x: [torch.from_numpy(out) for out in evaluator.run(None, {evaluator.input_names[0]: x.cpu().numpy()})]


def _compare(name: str, ours: Any, theirs: Any) -> None:
    """Refuse an exported part that gives other numbers."""
    pairs = zip(*([out] if isinstance(out, Tensor) else list(out) for out in (ours, theirs)), strict=True)
    for mine, other in pairs:
        if mine.shape != other.shape or (mine.cpu() - other.cpu()).abs().max() > TOLERANCE * max(1, mine.abs().max()):
            raise UserError(f"the exported {name} gives other numbers than the run's, and is not to be used", 1)
