"""Exported programs: what they say is what the model says, at any batch size."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import flowclf
from flowclf import export as module
from flowclf.classifier import POSTERIOR_DRAWS, GenerativeClassifier
from flowclf.cli.app import run as command
from flowclf.export import BATCH_SIZES, ExportFailed, export_model
from flowclf.support.errors import UserError

FLOW: dict[str, Any] = {"kind": "mlp", "blocks": 1, "hidden": [8]}
CONV: dict[str, Any] = {"kind": "conv", "blocks": [1, 1], "width": [4], "dense_hidden": [8]}
PLAIN: dict[str, Any] = {"kind": "mlp", "hidden": [8]}
SPHERE = {"kind": "vmf", "weights": "uniform"}
IMAGE, TABLE = (1, 4, 4), (5,)
NEEDS_ONNX = "flowclf[onnx] is not installed"


def made(system: str, shape: tuple[int, ...], **options: Any) -> GenerativeClassifier:
    """Small, with parameters that are not those of the seed."""
    levels = 8 if len(shape) == 3 else None
    model = flowclf.build(system, shape=shape, classes=3, levels=levels, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def samples(model: GenerativeClassifier, count: int = 40) -> Tensor:
    """Integer images, or tables of real numbers."""
    generator = torch.Generator().manual_seed(2)
    size = (count, *model.shape)
    if len(model.shape) == 3:
        return torch.randint(8, size, generator=generator, dtype=torch.uint8)
    return torch.randn(size, generator=generator)


def decoding(**options: Any) -> dict[str, Any]:
    return {"network": PLAIN, "decoder": PLAIN, **options}


CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "splines": ("ib-inn", TABLE, {"network": {**FLOW, "map": "spline", "bins": 4}}),
    "every β̃": ("ib-inn", TABLE, {"network": {**FLOW, "condition": "beta"}}),
    "convolutions": ("class-nll", IMAGE, {"network": CONV, "preprocess": {"marginal": 0.7}}),
    "no density": ("i-revnet", TABLE, {"network": FLOW}),
    "discriminators": ("vc", IMAGE, {"network": PLAIN, "noise": {"uniform": 1.0}}),
    "von Mises-Fisher": ("ce", TABLE, {"network": PLAIN, "mixture": SPHERE}),
    "Gaussian encoder": ("vib", TABLE, {"network": PLAIN}),
    "bound": ("bvae", IMAGE, decoding()),
}


@pytest.mark.parametrize("case", CASES)
def test_the_program_says_what_the_model_says(case: str, tmp_path: Path) -> None:
    system, shape, options = CASES[case]
    model = made(system, shape, **options)
    x, path = samples(model), tmp_path / "deep" / "model.pt2"
    exported = export_model(model, path, x, format="torch-export")
    second = "log_prob" if model.has_density else "elbo"
    expected = ("log_posterior", second)[: 1 + model.has_elbo]
    assert exported.outputs == expected
    assert {(d.output, d.batch) for d in exported.differences} == {
        (name, size) for name in expected for size in BATCH_SIZES
    }
    program = torch.export.load(path).module()
    offset = exported.metadata["whole_level_offset"] if len(shape) == 3 else 0.0
    found = program(x[:7].float() + offset)
    for name in expected:
        torch.testing.assert_close(found[name], getattr(model, name)(x[:7]), rtol=1e-5, atol=1e-5)


def test_what_exporting_leaves_alone(tmp_path: Path) -> None:
    model = made("vib", TABLE, network=PLAIN)
    x, state = samples(model), torch.get_rng_state()
    before, names = model.log_posterior(x), list(model.state_dict())
    model.train()
    export_model(model, tmp_path / "model.pt2", x[:1], format="torch-export")
    assert model.training
    assert model.kept_noise is None
    assert list(model.state_dict()) == names
    assert torch.equal(model.eval().log_posterior(x), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_draws_are_those_of_seed_0() -> None:
    model = made("vib", TABLE, network=PLAIN)
    x = samples(model)
    encoding, dims = model.encode(x), model.mixture.dims
    assert encoding.mean is not None
    assert encoding.log_var is not None
    noise = torch.empty(POSTERIOR_DRAWS, 1, dims)
    noise.normal_(generator=torch.Generator().manual_seed(0))
    z = encoding.mean + (encoding.log_var / 2).exp() * noise
    given_z = model.densities(z.flatten(0, 1)).log_posterior.unflatten(0, z.shape[:2])
    torch.testing.assert_close(model.log_posterior(x), given_z.exp().mean(0).log())


@pytest.mark.parametrize("error", [1e-2, float("nan")])
def test_a_program_that_differs_is_not_written(
    error: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made("ce", TABLE, network=PLAIN)
    path = tmp_path / "model.pt2"
    path.write_text("of before")
    read = module.READERS["torch-export"]

    def wrong(*arguments: Any) -> Any:
        program = read(*arguments)
        return lambda x: {name: value + error for name, value in program(x).items()}

    monkeypatch.setitem(module.READERS, "torch-export", wrong)
    with pytest.raises(ExportFailed, match="its log_posterior differs from the model's by"):
        export_model(model, path, samples(model), format="torch-export")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    assert path.read_text() == "of before"


def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    branch = {"kind": "knn", "samples": 20}
    model = made("vae", IMAGE, **decoding(branch=branch))
    with pytest.raises(UserError, match=r"branch\.kind=knn: expected a model that torch computes"):
        export_model(model, tmp_path / "model.onnx", samples(model))
    plain = made("ce", TABLE, network=PLAIN)
    with pytest.raises(UserError, match=r"expected a file named \*\.pt2 for torch-export"):
        export_model(plain, tmp_path / "model.onnx", samples(plain), format="torch-export")
    with pytest.raises(UserError, match="expected a model on the CPU and samples, got cpu and 0"):
        export_model(plain, tmp_path / "model.onnx", samples(plain, 0))
    with pytest.raises(UserError, match=r"got torch\.float64; use model\.float\(\)"):
        export_model(
            made("ce", TABLE, network=PLAIN).double(), tmp_path / "a.onnx", torch.ones(1, 5)
        )
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"needs onnxscript: pip install 'flowclf\[onnx\]'"):
        export_model(plain, tmp_path / "model.onnx", samples(plain))
    assert list(tmp_path.iterdir()) == []


def test_a_tail_that_the_format_would_make_infinite(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason=NEEDS_ONNX)
    pytest.importorskip("onnxruntime", reason=NEEDS_ONNX)
    model = made("m2", IMAGE, **decoding())
    with torch.no_grad():
        # Latents at the end of their box, where log σ(-t) is -200.
        model.encoder.latent.mean.bias.add_(200.0)  # type: ignore[union-attr,operator]
    x = samples(model)
    assert bool(model.elbo(x).isfinite().all())
    exported = export_model(model, tmp_path / "model.onnx", x)
    assert exported.outputs == ("log_posterior", "elbo")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    small = ["--set", "network={kind: mlp, blocks: 1, hidden: [16]}", "--epochs", "1"]
    sizes = ["--set", "data.train_size=200", "--set", "data.test_size=50", "--device", "cpu"]
    assert command(["train", "ib-inn", "--out", str(folder), *small, *sizes]) == 0
    return folder


def test_onnx_of_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason=NEEDS_ONNX)
    pytest.importorskip("onnxscript", reason=NEEDS_ONNX)
    assert command(["export", str(run), "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert "Warning" not in captured.err
    path = run / "export" / "model.onnx"
    assert document["file"] == str(path)
    assert document["bytes"] == path.stat().st_size
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    assert all(found["relative"] < 1e-4 for found in document["differences"])

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    shapes = {node.name: node.shape for node in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {
        "x": ["batch", 1, 8, 8],
        "log_posterior": ["batch", 10],
        "log_prob": ["batch"],
    }
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == [str(k) for k in range(10)]
    assert (facts["levels"], facts["whole_level_offset"]) == ("17", "0.5")
    model, x = flowclf.load(run), flowclf.load_dataset("digits").test.x[:5]
    log_posterior, log_prob = session.run(None, {"x": x.float().numpy() + 0.5})
    torch.testing.assert_close(torch.from_numpy(log_prob), model.log_prob(x), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        torch.from_numpy(log_posterior), model.log_posterior(x), rtol=1e-4, atol=1e-4
    )


def test_a_run_as_a_program_of_torch(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run.with_name("flow.pt2")
    arguments = ["export", str(run), "--format", "torch-export", "--out", str(out)]
    assert command(arguments) == 0
    printed = capsys.readouterr().out
    assert "log_posterior" in printed
    assert "to whole grey levels add 0.5" in printed
    assert str(out) in printed
    extra = {"flowclf.json": ""}
    torch.export.load(out, extra_files=extra)
    assert json.loads(extra["flowclf.json"])["system"] == "ib-inn"


def test_mistakes_are_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def worse(*arguments: Any) -> Any:
        return (replace(found, relative=1.0) for found in compare(*arguments))

    compare = module._compare
    monkeypatch.setattr(module, "_compare", worse)
    for arguments, status, message in (
        (["export", "nowhere"], 2, "expected a run folder"),
        (["export", str(run), "--out", "model.txt"], 2, "expected a file named *.onnx"),
        (["export", str(run), "--format", "tflite"], 2, "'tflite' is not one of"),
        (["export", str(run), "--format", "torch-export"], 1, "the most allowed is 0.0001"),
    ):
        assert command(arguments) == status
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = [line for line in captured.err.splitlines() if not line.startswith("export: ")]
        (line,) = lines
        assert line.startswith("flowclf: ")
        assert message in line
    assert not (run / "export" / "model.pt2").exists()
