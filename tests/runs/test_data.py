"""A run and its data: what was done to them is kept, the files may move or be gone, and a changed one is named."""

import json
import shutil

import numpy as np
import pytest
import torch

from pyro_models import report
from pyro_models.base.errors import UserError
from pyro_models.cli.train import main
from pyro_models.cli.verbs import main as verbs
from pyro_models.data import load
from pyro_models.recipes import ClassifierRecipe, GMVAERecipe, VAERecipe, from_json
from pyro_models.runs import RunOptions, open_run, train

pytestmark = pytest.mark.usefixtures("quick")
RNG = np.random.default_rng(0)
KIND = np.arange(240) % 3
ROWS = np.array([[-9.0, 0], [0, 9], [9, 0]])[KIND] + RNG.normal(size=(240, 2))
ROWS = ROWS * [100, 0.01] + [5000, 3]
TABLE = ["gmvae", "--preset", "table", "--start", "mixture", "--epochs", "9", "--batch-size", "60", "--device", "cpu"]


def write(path, rows=ROWS, labels=KIND, head="a,b,label"):
    body = (",".join(map(str, [*row, label])) for row, label in zip(rows.tolist(), labels, strict=True))
    path.write_text("\n".join([head, *body]))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a table and a run on it."""
    home = tmp_path_factory.mktemp("home")
    write(home / "own.csv")
    torch.set_default_dtype(torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "publish", lambda run: None)
        assert main([*TABLE, "--data", str(home / "own.csv"), "--out", str(home / "run")]) == 0
    return home


@pytest.fixture
def copy(home, tmp_path):
    """Another copy of that folder; the first is out of sight."""
    shutil.copytree(home, tmp_path / "copy")
    hidden = home.with_name("hidden")
    home.rename(hidden)
    yield tmp_path / "copy"
    hidden.rename(home)


def clusters(run, split):
    return run.recipe.infer(run, split)


def test_raw_new_rows_fall_into_the_clusters_of_the_runs_own_rows(home, tmp_path):
    run = open_run(home / "run")
    assert json.loads((home / "run" / "results.json").read_text())["test"]["accuracy"] == 1.0
    write(tmp_path / "new.csv", rows=ROWS[:30, ::-1], labels=KIND[:30], head="b,a,label")
    new = clusters(run, run.preprocessing.apply(tmp_path / "new.csv"))
    ours = torch.cat([clusters(run, part) for part in run.dataset.parts.values()])
    ids = np.concatenate([part.ids for part in run.dataset.parts.values()]).astype(int)
    assert torch.equal(new, ours[np.argsort(ids)][:30])


def test_a_run_whose_data_moved_with_it_finds_them(copy, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run = open_run(copy / "run")
    assert len(run.dataset.test) == 40


def test_a_run_without_its_data_opens_tells_its_story_and_takes_new_data(copy, capsys):
    (copy / "own.csv").unlink()
    run = open_run(copy / "run")
    assert clusters(run, run.preprocessing.apply({"a": ROWS[:9, 0], "b": ROWS[:9, 1]})).unique().numel() == 3
    assert run.dataset.shape == (2,)
    with pytest.raises(UserError, match=r"was trained on .*own.csv, which is gone") as error:
        _ = run.dataset.test
    assert error.value.exit_code == 2
    capsys.readouterr()
    assert verbs(["story", str(copy / "run")]) == 0
    assert "x ~ Normal" in capsys.readouterr().out
    assert verbs(["likelihood", str(copy / "run"), "--samples", "2", "--gap", "0"]) == 2
    assert "which is gone" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["values", "columns", "rows"])
def test_a_changed_file_is_named_when_the_run_is_opened_and_refused_where_its_data_are_wanted(copy, change, capsys):
    before = (copy / "run" / "results.json").read_bytes()
    changes = {"values": {"rows": ROWS * 1000 + 77}, "columns": {"head": "b,a,label"}, "rows": {"labels": KIND[::-1]}}
    write(copy / "own.csv", **changes[change])
    with pytest.warns(UserWarning, match=r"own\.csv changed since the run in .* was trained on it"):
        run = open_run(copy / "run")
    with pytest.raises(UserError, match=r"own\.csv changed since"):
        _ = run.dataset.train
    assert main(["gmvae", "--out", str(copy / "run"), "--resume"]) == 2
    assert "own.csv changed since" in capsys.readouterr().err
    assert (copy / "run" / "results.json").read_bytes() == before


def test_a_file_of_the_same_name_in_another_folder_is_not_taken_for_the_data(copy, monkeypatch, tmp_path):
    recipe = json.loads((copy / "run" / "recipe.json").read_text())
    (copy / "run" / "recipe.json").write_text(json.dumps(recipe | {"data": "own.csv"}))
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere" / "own.csv", rows=ROWS * 1000)
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = open_run(copy / "run")
    assert torch.equal(run.dataset.test.x, load(copy / "own.csv").test.x)


def test_a_run_of_a_newer_version_is_refused_by_name(copy):
    path = copy / "run" / "data.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99, "version": "7.8"}))
    with pytest.raises(UserError, match=r"of pyro-stories 7\.8, newer than this"):
        open_run(copy / "run")


def test_data_in_memory_have_a_run_folder_that_resumes_and_asks_for_them_again(tmp_path):
    images = RNG.random((60, 6, 6))
    recipe = VAERecipe(data=images, epochs=1, batch_size=20, schedule="constant", network="article")
    options = RunOptions(out=tmp_path / "run", device="cpu")
    run = train(recipe, options)
    assert run.dataset.shape == (1, 6, 6)
    again = from_json(json.loads((tmp_path / "run" / "recipe.json").read_text()))
    assert again == recipe
    resumed = RunOptions(out=tmp_path / "run", device="cpu", resume=True)
    run = train(VAERecipe(**{**vars(recipe), "data": images.copy(), "epochs": 2}), resumed)
    assert len(run.metrics) == 2
    opened = open_run(tmp_path / "run")
    assert opened.preprocessing.apply(images[:5]).x.shape == (5, 1, 6, 6)
    with pytest.raises(UserError, match=r"ndarray \[60, 6, 6\] in memory.* give them again"):
        _ = opened.dataset.test
    assert torch.equal(open_run(tmp_path / "run", data=images).dataset.test.x, run.dataset.test.x)
    with pytest.raises(UserError, match="was trained on other data in memory than these"):
        _ = open_run(tmp_path / "run", data=images[::-1]).dataset.test
    with pytest.raises(UserError, match="other data in memory"):
        train(VAERecipe(**{**vars(recipe), "data": images / 2, "epochs": 3}), resumed)


def test_the_classes_of_a_classifier_are_those_of_the_labels(tmp_path, capsys):
    names = np.array(["cat", "dog", "eel"])[KIND]
    recipe = ClassifierRecipe(data=(ROWS, names), labels=30, network="mlp", epochs=1, batch_size=30)
    run = train(recipe, RunOptions(out=tmp_path / "run", device="cpu"))
    assert run.guide.classify(run.preprocessing.apply(ROWS).x).event_shape == (3,)
    with pytest.raises(UserError, match="`classes=10`: the labels have 3 classes"):
        train(ClassifierRecipe(data=(ROWS, names), classes=10, network="mlp"), RunOptions(out=tmp_path / "other"))
    with pytest.raises(UserError, match="needs labels of two or more classes, and memory has 1"):
        train(ClassifierRecipe(data=(ROWS, KIND * 0), labels=9, network="mlp"), RunOptions(out=tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_rows_whose_label_is_not_known_train_and_do_not_score(tmp_path, capsys):
    labels = np.where(RNG.random(240) < 0.3, KIND, -1)
    write(tmp_path / "own.csv", labels=["NA" if k < 0 else f"kind {k}" for k in labels])
    known = int((labels >= 0).sum())
    for name, more in (("few", ["--labels", "30"]), ("none", [])):
        folder = tmp_path / name
        assert main([*TABLE, *more, "--data", str(tmp_path / "own.csv"), "--out", str(folder)]) == 0
        assert f"data: {240 - known} of 240 labels are not known" in capsys.readouterr().out
        results = json.loads((folder / "results.json").read_text())
        assert results["test"]["accuracy"] == results["test"]["ari"] == 1.0
        assert sum(results["images"].values()) == 240
    words = ["classifier", "--preset", "table", "--data", str(tmp_path / "own.csv"), "--labels"]
    assert main([*words, "20", "--epochs", "2", "--out", str(tmp_path / "classifier")]) == 0
    assert main([*words, "200", "--out", str(tmp_path / "other")]) == 2
    assert "the number of training data whose label is known" in capsys.readouterr().err


def test_unlabelled_rows_are_among_those_that_a_mixture_learns_from():
    labels = np.where(np.arange(240) < 60, KIND, -1)
    recipe = GMVAERecipe.preset("table", data=(ROWS, labels), labels=9)
    dataset = recipe.load()
    train_split, labelled = recipe.training_splits(dataset.train)
    assert len(train_split) == len(dataset.train) > 150
    assert len(labelled) == 9
    assert labelled.labels.bincount().tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    "words", ["vae --preset table", "autoencoder", "hvae --likelihood normal", "cvae --given label"]
)
def test_recipes_of_images_learn_tables_too(tmp_path, words, monkeypatch, request):
    monkeypatch.undo()  # with its pictures
    request.getfixturevalue("sketched")
    torch.set_default_dtype(torch.float32)
    normal = ["--likelihood", "normal"] if words.startswith("cvae") else []
    write(tmp_path / "own.csv")
    words = [*words.split(), *normal, "--data", str(tmp_path / "own.csv"), "--out", str(tmp_path / "run")]
    assert main([*words, "--epochs", "1", "--steps", "1", "--batch-size", "60"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["units"]["elbo"].startswith("nats per row of standardised columns, normal likelihood")
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_table_needs_a_likelihood_of_rows(capsys):
    for words, advice in (("vae", "--preset table, or --likelihood columns"), ("hvae", "use --likelihood columns")):
        assert main([words, "--data", "wine"]) == 2
        assert advice in capsys.readouterr().err
