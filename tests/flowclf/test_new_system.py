"""The tests' own system `hybrid`, which is in no file but its own and one entry of the table.

All tests that run over the systems run it as well (`conftest.py` enters it); here is what is left:
its density against its Jacobian, and the way from training to a sweep on the command line.
"""

import csv
import json
from math import log, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from hybrid import HYBRID, Hybrid
from torch.testing import assert_close

import flowclf
from couplings.testing import randomize
from flowclf.cli.app import run
from flowclf.models import systems_with
from flowclf.support.errors import UserError
from flowclf.systems import SYSTEMS

QUICK = ("network={kind: mlp, blocks: 1, hidden: [8]}", "data={train_size: 100, test_size: 40}")
SETTINGS = [word for setting in QUICK for word in ("--set", setting)]


def command(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """Run a command with --json, and return what it prints."""
    assert run([*map(str, words), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hybrid") / "run"
    assert run(["train", "hybrid", "--out", str(folder), *SETTINGS, "--epochs", "2"]) == 0
    return folder


def test_one_entry_of_the_table_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(SYSTEMS, "hybrid")
    with pytest.raises(UserError, match="'hybrid' is not a system"):
        flowclf.build("hybrid", shape=(2,), classes=2)
    monkeypatch.setitem(SYSTEMS, "another", HYBRID)
    assert isinstance(flowclf.build("another", shape=(2,), classes=2), Hybrid)
    assert systems_with("has_density")[-1] == "another"


def test_its_density_is_that_of_its_jacobian() -> None:
    """log q(x) = log Σ_k N(z; μ_k, I)/K + log|det dz/dx|."""
    model = flowclf.build("hybrid", shape=(4,), classes=3).double().eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    model.fit_statistics(x, torch.arange(5) % 3)
    randomize(model, generator, 0.1)
    z = model.encode(x).z
    jacobian = torch.func.vmap(torch.func.jacfwd(lambda one: model.encode(one[None]).z[0]))(x)
    distances = (z[:, None] - model.mixture.means).square().sum(2)
    latent = (-0.5 * distances - 2 * log(2 * pi)).logsumexp(1) - log(3)
    assert_close(model.log_prob(x), latent + jacobian.det().abs().log())
    linear = model.heads["linear"](z).log_softmax(1)
    assert_close(model.log_posterior(x), linear)
    assert not torch.allclose(model.mixture.log_posterior(z), linear)


def test_the_command_line_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    *_, row = command(capsys, "systems")
    assert row["system"] == "hybrid"
    assert row["paper"] == "Nalisnick et al., ICML 2019"
    assert row["beta"] is False
    assert "digits" in row["presets"]


@pytest.mark.parametrize(
    ("suites", "names"),
    [
        ((), {"accuracy", "bits_per_dim", "ece"}),
        (("--suite", "likelihood,exactness,explain"), {"bits_per_dim", "log_prob_nats"}),
        (("--suite", "ood"), {"ood"}),
    ],
)
def test_a_run_is_evaluated(
    trained: Path, suites: tuple[str, ...], names: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert names <= command(capsys, "evaluate", trained, *suites).keys()


def test_a_run_generates_images_and_is_saved(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "drawn.png"
    assert run(["sample", str(trained), "--out", str(out), "--per-class", "2"]) == 0
    assert out.stat().st_size > 1000
    model = flowclf.load(trained)
    assert isinstance(model, Hybrid)
    model.save(tmp_path / "saved")
    x = torch.randint(17, (4, 1, 8, 8))
    assert_close(flowclf.load(tmp_path / "saved").log_prob(x), model.log_prob(x), rtol=0, atol=0)


def test_its_weight_is_swept(tmp_path: Path) -> None:
    grid = ("--grid", "objective.rate=0.1,1")
    words = ["sweep", "hybrid", "--data", "digits", *grid, "--out", str(tmp_path / "sweep")]
    assert run([*words, *SETTINGS, "--set", "train.epochs=1", "--workers", "1"]) == 0
    with (tmp_path / "sweep" / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["system"] for row in rows] == ["hybrid"] * 2
    assert len({row["bits_per_dim"] for row in rows}) == 2
