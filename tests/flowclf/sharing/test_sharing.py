"""Saved models: the same again from a folder, and from a Hub that is a folder, too."""

import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from small_systems import small
from torch import nn

import flowclf
from flowclf.classifier import GenerativeClassifier
from flowclf.data import Dataset, Split
from flowclf.models import with_metrics
from flowclf.runs import Run
from flowclf.sharing import ModelInfo
from flowclf.support.errors import UserError
from flowclf.systems import SYSTEMS
from flowclf.systems.ib_inn import ConditionedIBInn

FLOW: dict[str, Any] = {"kind": "mlp", "blocks": 1, "hidden": [8]}
FILES = ["README.md", "config.json", "model.safetensors"]


def made(system: str = "ib-inn", **options: Any) -> GenerativeClassifier:
    """Small, with parameters that are not those of the seed."""
    size = {"shape": (1, 2, 2), "classes": 3, "levels": 8, "samples": 20, "seed": 5}
    model = flowclf.build(system, **{**size, **small(system), **options})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def assert_same(model: GenerativeClassifier, other: GenerativeClassifier) -> None:
    state, others = model.state_dict(), other.state_dict()
    assert state.keys() == others.keys()
    assert all(torch.equal(state[name], others[name]) for name in state)
    assert all(state[name].dtype == others[name].dtype for name in state)
    x = torch.randint(8, (4, *model.shape), generator=torch.Generator().manual_seed(2))
    assert torch.equal(model.log_posterior(x), other.log_posterior(x))
    assert (other.info, other.settings) == (model.info, model.settings)
    assert not other.training


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_is_the_same_again(system: str, tmp_path: Path) -> None:
    model = made(system)
    model.save(tmp_path / "model")
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == FILES
    assert_same(model, flowclf.load(tmp_path / "model"))


def test_infinity_is_valid_json(tmp_path: Path) -> None:
    model = made(beta=inf)
    model.save(tmp_path)
    json.loads((tmp_path / "config.json").read_text("utf-8"), parse_constant=pytest.fail)
    loaded = flowclf.load(tmp_path)
    assert loaded.settings.objective.beta == inf  # type: ignore[attr-defined]
    assert_same(model, loaded)


def test_double_precision_stays(tmp_path: Path) -> None:
    model = made(shape=(4,), levels=None).double()
    model.save(tmp_path)
    assert_same(model, flowclf.load(tmp_path))


def test_a_backbone_of_ones_own_is_handed_over_again(tmp_path: Path) -> None:
    def backbone() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 6))

    model = flowclf.build("vc", shape=(1, 2, 2), classes=3, backbone=backbone()).eval()
    model.save(tmp_path)
    with pytest.raises(UserError, match="expected a module of yours as backbone"):
        flowclf.load(tmp_path)
    assert_same(model, flowclf.load(tmp_path, backbone=backbone()))


def test_a_model_for_every_beta_is_saved_where_it_is(tmp_path: Path) -> None:
    model = made(network={**FLOW, "condition": "beta"})
    assert isinstance(model, ConditionedIBInn)
    assert model.info is not None
    model.info = with_metrics(model.info, {"accuracy": 0.5})
    model.move_to(10.0)
    model.save(tmp_path)
    loaded = flowclf.load(tmp_path)
    assert isinstance(loaded, ConditionedIBInn)
    assert loaded.beta == 10.0
    assert loaded.info is not None
    assert loaded.info.metrics == {}  # which were those of another β̃
    assert_same(model, loaded)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    x = (2 * y[:, None, None, None] + torch.rand(60, 1, 2, 2, generator=generator) * 3).byte()
    names = ("owl", "a | b", "newt")
    data = Dataset("/private/of/mine/birds.npz", Split(x, y), Split(x[:30], y[:30]), names, 8)
    quick = {"network": FLOW, "train": {"epochs": 1}}
    config = flowclf.make_config("ib-inn", data.name, data.shape, overrides=[quick])
    folder = tmp_path_factory.mktemp("sharing") / "run"
    trained = flowclf.train(config, data, Run(folder), device="cpu")
    trained.model.save(folder.with_name("saved"))
    return folder


def test_a_trained_model_remembers_its_data_and_metrics(run: Path) -> None:
    model, again = flowclf.load(run), flowclf.load(run.with_name("saved"))
    assert_same(model, again)
    assert model.info is not None
    assert model.info.class_names == ("owl", "a | b", "newt")
    assert (model.info.data, model.info.samples) == ("birds.npz", 60)
    test = Run(run).read_summary()["test"]
    assert model.info.metrics["bits_per_dim"] == test["bits_per_dim"]
    assert all(isinstance(value, float) for value in model.info.metrics.values())
    Run(run).write_evaluation({"accuracy": 0.125, "ood": [{"auroc": 1.0}]})
    evaluated = flowclf.load(run).info
    assert evaluated is not None
    assert evaluated.metrics == {**model.info.metrics, "accuracy": 0.125}


def test_the_card_says_what_it_is_and_how_good(run: Path) -> None:
    text = (run.with_name("saved") / "README.md").read_text("utf-8")
    _, front, body = text.split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["library_name"] == "flowclf"
    assert {"ib-inn", "density-estimation"} < set(head["tags"])
    (result,) = head["model-index"][0]["results"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    accuracy = Run(run).read_summary()["test"]["accuracy"]
    assert values["accuracy"] == accuracy
    assert head["metrics"] == list(values)
    assert f"| accuracy | {100 * accuracy:.2f} % |" in body
    assert "| classes y | owl, a \\| b, newt |" in body
    assert 'flowclf.load("saved")' in body
    assert "private" not in text
    assert all(len(line) <= 100 for line in body.splitlines())


def test_the_hub_reads_the_card(run: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="flowclf[hub] is not installed")
    card = hub.ModelCard.load(run.with_name("saved") / "README.md")
    (first, *_) = card.data.eval_results
    assert (first.dataset_name, first.metric_type) == ("birds.npz", "accuracy")


def test_what_was_not_evaluated_says_so(tmp_path: Path) -> None:
    made("ce").save(tmp_path)
    text = (tmp_path / "README.md").read_text("utf-8")
    assert "# ce\n" in text
    assert "None were recorded." in text
    assert "log_prob" not in text


def test_what_must_not_be_overwritten_or_guessed(tmp_path: Path) -> None:
    model = made()
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match="expected a new or empty folder"):
        model.save(tmp_path)
    model.info = None
    with pytest.raises(UserError, match="got a IBInn made by hand"):
        model.save(tmp_path / "new")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    made().save(tmp_path / "saved")
    return tmp_path / "saved"


def change(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **values}), "utf-8")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "bert"}, "not of a model that flowclf saved.*model_type"),
        ({"dtype": "pickle"}, "not of a model that flowclf saved.*dtype"),
        ({"info": {"system": "ib-inn"}}, "info.shape"),
        ({"info": {"system": "x", "shape": [4], "class_names": ["a", "b"]}}, "'x' is not a system"),
        ({"settings": {"network": {"kind": "mlp", "blocks": 0}}}, "network.blocks"),
        ({"settings": {"train": {}}}, "'train' belongs to a run"),
        ({"settings": {"network": {**FLOW, "hidden": [9]}}}, "another architecture"),
    ],
)
def test_a_config_that_is_not_ours(saved: Path, values: dict[str, Any], message: str) -> None:
    change(saved, **values)
    with pytest.raises(UserError, match=message):
        flowclf.load(saved)


def test_folders_that_are_not_whole(saved: Path, tmp_path: Path) -> None:
    save_file({"nothing": torch.zeros(1)}, saved / "model.safetensors")
    with pytest.raises(UserError, match="no digest to verify it by"):
        flowclf.load(saved)
    with pytest.raises(UserError, match="another architecture"):
        flowclf.load(saved, unverified=True)
    (saved / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        flowclf.load(saved)
    (saved / "config.json").write_text("{", "utf-8")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        flowclf.load(saved)
    with pytest.raises(UserError, match="expected a run folder"):
        flowclf.load(tmp_path)
    with pytest.raises(UserError, match="expected OWNER/NAME on the Hub"):
        flowclf.load(tmp_path, revision="main")


@dataclass
class FakeHub:
    """Repositories as folders, and what was asked for; nothing leaves the machine."""

    folder: Path
    asked: list[dict[str, Any]] = field(default_factory=list)
    failure: Exception | None = None

    def snapshot_download(self, repo_id: str, **options: Any) -> str:
        self._note(repo_id=repo_id, **options)
        copy = self.folder / "cache" / repo_id
        copy.mkdir(parents=True)
        for name in options["allow_patterns"]:
            if (self.folder / repo_id / name).exists():
                shutil.copy(self.folder / repo_id / name, copy)
        return str(copy)

    def create_repo(self, _: Any, repo_id: str, **options: Any) -> str:
        self._note(repo_id=repo_id, **options)
        (self.folder / repo_id).mkdir(parents=True)
        return f"https://hub.example/{repo_id}"

    def upload_folder(self, _: Any, *, repo_id: str, folder_path: str, **options: Any) -> None:
        self._note(repo_id=repo_id, **options)
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)

    def _note(self, **options: Any) -> None:
        self.asked.append(options)
        if self.failure:
            raise self.failure


def standing_in(real: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """The fake, called as the real one can be."""

    def call(*arguments: Any, **options: Any) -> Any:
        inspect.signature(real).bind(*arguments, **options)
        return fake(*arguments, **options)

    return call


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    module = pytest.importorskip("huggingface_hub", reason="flowclf[hub] is not installed")
    fake = FakeHub(tmp_path / "hub")
    api = module.HfApi
    calls = (module, "snapshot_download"), (api, "create_repo"), (api, "upload_folder")
    for owner, name in calls:
        monkeypatch.setattr(owner, name, standing_in(getattr(owner, name), getattr(fake, name)))
    monkeypatch.chdir(tmp_path)
    return fake


def test_to_the_hub_and_back(hub: FakeHub) -> None:
    model = made()
    assert model.push_to_hub("owner/name", private=True) == "https://hub.example/owner/name"
    assert sorted(file.name for file in (hub.folder / "owner/name").iterdir()) == FILES
    assert 'load("owner/name")' in (hub.folder / "owner/name/README.md").read_text("utf-8")
    assert_same(model, flowclf.load("owner/name", revision="v1"))
    create, upload, download = hub.asked
    assert create == {"repo_id": "owner/name", "private": True, "exist_ok": True}
    assert sorted(upload["allow_patterns"]) == FILES
    assert sorted(download["allow_patterns"]) == FILES[1:]
    assert download["revision"] == "v1"


def test_a_folder_comes_before_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    model = made()
    model.save(tmp_path / "owner" / "name")
    assert_same(model, flowclf.load("owner/name"))
    assert hub.asked == []
    # A Path never means the Hub, nor does a string with anything but one slash.
    for source in (Path("owner/other"), "other", "a/b/c", "./owner/other"):
        with pytest.raises(UserError, match="expected a run folder"):
            flowclf.load(source)
    assert hub.asked == []


def test_other_models_on_the_hub_are_refused(hub: FakeHub) -> None:
    with pytest.raises(UserError, match=r"has no config\.json: it is no model that flowclf saved"):
        flowclf.load("owner/empty")
    with pytest.raises(UserError, match="expected OWNER/NAME of a model on the Hub, got 'name'"):
        made().push_to_hub("name")


def test_what_the_hub_refuses_is_one_line(hub: FakeHub) -> None:
    from huggingface_hub import errors

    # Its constructor wants the answer of a server.
    missing = errors.RepositoryNotFoundError.__new__(errors.RepositoryNotFoundError)
    for failure, message in (
        (missing, r"there is no folder runs/typo, and no model of that name"),
        (errors.LocalEntryNotFoundError("no connection.\nMore."), "Hub: no connection; check the"),
        (errors.HFValidationError("Repo id must"), "runs/typo is no name on the Hub"),
        (errors.HTTPError("Name not known"), "cannot reach runs/typo on the Hub: Name not known"),
    ):
        hub.failure = failure
        for act in (flowclf.load, made().push_to_hub):
            with pytest.raises(UserError, match=message) as caught:
                act("runs/typo")
            assert "\n" not in str(caught.value)


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    for act in (flowclf.load, made().push_to_hub):
        with pytest.raises(UserError, match=r"pip install 'flowclf\[hub\]'"):
            act("runs/typo")


def test_models_need_neither_the_hub_nor_onnx() -> None:
    program = (
        "import sys, flowclf; flowclf.build, flowclf.load, flowclf.train; import flowclf.export;"
        "sys.exit(str({'huggingface_hub', 'onnx', 'onnxruntime', 'onnxscript'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == "set()"


def test_info_keeps_single_finite_numbers_alone() -> None:
    info = ModelInfo(system="ce", shape=(4,), class_names=("a", "b"))
    results = {"accuracy": 1, "bits_per_dim": inf, "name": "x", "rows": [1.0], "none": None}
    assert with_metrics(info, results).metrics == {"accuracy": 1.0}
