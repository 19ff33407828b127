"""Export of a trained model as one program: ONNX, or torch's own exported program.

Its input is x (batch, *shape), float32, in the units of the data, with any batch size; its outputs
are those of the model, in nats:

    log_posterior  log q(y|x), (batch, K)
    log_prob       log q(x), (batch,), of systems that know it exactly
    elbo           its lower bound, (batch,), of systems that have but that; always the same draws

x is a point, as floating x is for the model. A whole grey level stands for the interval [x, x + 1)
and is passed as its middle, x + noise.uniform/2, usually x + 0.5: `whole_level_offset`, which is
also in the file. For bits/dim pass dequantised images, x + U[0, 1), instead.

    session = onnxruntime.InferenceSession("model.onnx")
    log_posterior, log_prob = session.run(None, {"x": images.astype("float32") + 0.5})

    program = torch.export.load("model.pt2").module()
    log_posterior = program(images.float() + 0.5)["log_posterior"]

An ONNX file is read without running anything of it. torch.export.load unpickles (torch 2.13), which
can run any code: open no .pt2 file of a stranger.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.onnx import ONNXProgram

from flowclf.classifier import GenerativeClassifier, evaluating
from flowclf.nn.label_heads import FittedBranch
from flowclf.support.atomic_files import write_whole
from flowclf.support.errors import UserError

__all__ = [
    "SUFFIXES",
    "TOLERANCE",
    "Difference",
    "ExportFailed",
    "Exported",
    "Format",
    "export_model",
]

Format = Literal["onnx", "torch-export"]
Outputs = dict[str, Tensor]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
# Ten to a hundred times what the formats differ by in float32.
TOLERANCE = 1e-4
BATCH_SIZES = (1, 2, 37)
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
METADATA_FILE = "flowclf.json"


class ExportFailed(RuntimeError):
    """Exported program whose results differ from the model's."""


@dataclass(frozen=True)
class Difference:
    """Largest differences between exported program and model."""

    output: str
    batch: int
    absolute: float  # the largest, nats
    relative: float  # the largest, of the model's value or of 1 nat if that is more


@dataclass(frozen=True)
class Exported:
    """Exported file and its comparison with the model."""

    path: Path
    outputs: tuple[str, ...]
    metadata: dict[str, Any]  # what the file says of itself
    differences: tuple[Difference, ...]  # from the model, for each output and batch size


class Scores(nn.Module):
    """Module from floating x (B, *shape) to a model's named outputs, in one pass of its encoder.

    Args:
        model: in eval mode.
        latents: also return z, and the `log_det` of a flow.
    """

    def __init__(self, model: GenerativeClassifier, latents: bool = False) -> None:
        super().__init__()
        self.model, self.latents = model, latents

    def forward(self, x: Tensor) -> Outputs:
        """Compute `log_posterior`, and `log_prob` or `elbo` if the system has it."""
        model = self.model
        if model.has_density:
            encoding = model.encode(x)
            densities = model.densities(encoding.z)
            assert encoding.log_det is not None
            log_prob = densities.log_prob + encoding.log_det
            copied = model.noise.draws > 0
            log_posterior = model.log_posterior(x) if copied else densities.log_posterior
            found = {"log_posterior": log_posterior, "log_prob": log_prob}
            more = {"z": encoding.z, "log_det": encoding.log_det} if self.latents else {}
            return found | more
        found = {"log_posterior": model.log_posterior(x)}
        found |= {"elbo": model.elbo(x)} if model.has_elbo else {}
        return found | ({"z": model.encode(x).z} if self.latents else {})


def export_model(
    model: GenerativeClassifier,
    path: Path,
    x: Tensor,
    *,
    format: Format = "onnx",
    tolerance: float = TOLERANCE,
    report: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write the model as one program that was read again and compared with the model.

    Args:
        model: trained, on the CPU.
        path: the file, .onnx or .pt2.
        x: samples to compare on, (N, *shape), as the data have them.
        format: "onnx" (needs `flowclf[onnx]`) or "torch-export".
        tolerance: largest relative difference, see `Difference`.
        report: is told what is being done.

    Raises:
        UserError: a model that torch cannot follow, that is not on the CPU or, for ONNX, not in
            float32; another ending of the name, no samples, or packages that are missing.
        ExportFailed: a larger difference; nothing is written.
    """
    _check(model, path, x, format)
    metadata = _metadata(model)
    differences: list[Difference] = []
    with exporting(model):
        report(f"following log_posterior of {type(model).__name__}")
        program = _trace(model, x)
        outputs = tuple(Scores(model)(_as_input(model, x[:1])))

        def write(part: Path) -> None:
            report(f"writing and comparing {path}")
            WRITERS[format](program, part, outputs, metadata)
            differences.extend(_compare(READERS[format](part, outputs), model, x))
            for found in differences:
                # NaN is no number below it either.
                if not found.relative <= tolerance:
                    raise ExportFailed(
                        f"{path} is not written: its {found.output} differs from the model's by "
                        f"{found.absolute:.3g} nats, relatively {found.relative:.3g}, in batches "
                        f"of {found.batch}; the most allowed is {tolerance:g} (--tolerance)"
                    )

        write_whole(path, write)
    return Exported(path, outputs, metadata, tuple(differences))


def _check(model: GenerativeClassifier, path: Path, x: Tensor, format: Format) -> None:
    fitted = [head.kind for head in model.heads.values() if isinstance(head, FittedBranch)]
    if fitted:
        raise UserError(
            f"branch.kind={fitted[0]}: expected a model that torch computes alone, got one whose "
            "posterior is scikit-learn's; train with branch.kind=network"
        )
    if model.noise.denoise:
        raise UserError(
            f"noise.denoise={model.noise.denoise:g}: expected a posterior without a derivative in "
            "it; train with noise.denoise=0"
        )
    device = model.mixture.device
    if device.type != "cpu" or not len(x):
        raise UserError(f"expected a model on the CPU and samples, got {device} and {len(x)}")
    if path.suffix != SUFFIXES[format]:
        raise UserError(f"expected a file named *{SUFFIXES[format]} for {format}, got {path}")
    if format != "onnx":
        return
    dtype = model.mixture.coordinates.dtype
    if dtype != torch.float32:  # onnxruntime has not all of its operators in others
        raise UserError(f"expected a float32 model for onnx, got {dtype}; use model.float()")
    check_packages()


def check_packages() -> None:
    """Check that what ONNX needs is installed.

    Raises:
        UserError: naming what is not.
    """
    for name in PACKAGES:
        try:
            import_module(name)
        except ImportError:
            raise UserError(
                f"exporting to ONNX needs {name}: pip install 'flowclf[onnx]', or use torch-export"
            ) from None


def _metadata(model: GenerativeClassifier) -> dict[str, Any]:
    """Return the metadata that a reader of the file needs."""
    facts = {"flowclf": version("flowclf"), "shape": list(model.shape)}
    if model.info is not None:
        facts |= model.info.model_dump(mode="json", include={"system", "class_names", "levels"})
    return facts | {"whole_level_offset": model.noise.level_middle}


@contextmanager
def exporting(model: GenerativeClassifier) -> Iterator[None]:
    """Switch to eval mode without gradients, draws as a buffer, and without torch's warnings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    # Exporting warns of its own deprecations, and that torchvision is not there.
    with warnings.catch_warnings(), evaluating(model), torch.no_grad():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        model.kept_noise = None if model.has_density else model.common_noise()
        try:
            yield
        finally:
            model.kept_noise = None
            logger.setLevel(level)


def _as_input(model: GenerativeClassifier, x: Tensor) -> Tensor:
    """Return x as the program takes it."""
    return x.float() if x.is_floating_point() else x.float() + model.noise.level_middle


def _trace(model: GenerativeClassifier, x: Tensor) -> ExportedProgram:
    return traced(Scores(model).eval(), "x", _as_input(model, x[:1]))


def traced(module: nn.Module, argument: str, example: Tensor) -> ExportedProgram:
    """Follow a module of one argument with any batch size, see `exporting`."""
    # Two samples: torch would take a batch of one for a constant.
    example = example[:1].repeat_interleave(2, 0)
    shapes = {argument: {0: Dim("batch")}}
    program = torch.export.export(module, (example,), dynamic_shapes=shapes)
    # What nobody asks for: of a region without autocast nothing would be left to be written.
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _write_onnx(
    program: ExportedProgram, path: Path, outputs: tuple[str, ...], metadata: dict[str, Any]
) -> None:
    written = onnx_program(program, "x", outputs)
    texts = {name: json.dumps(value) for name, value in metadata.items()}
    written.model.metadata_props.update(texts)
    written.save(path)


def onnx_program(program: ExportedProgram, argument: str, outputs: tuple[str, ...]) -> ONNXProgram:
    """Translate what `traced` gave to ONNX."""
    written = torch.onnx.export(
        program,
        input_names=[argument],
        output_names=list(outputs),
        dynamic_shapes={argument: {0: "batch"}},
        custom_translation_table={
            torch.ops.aten.log_sigmoid.default: _log_sigmoid,
            torch.ops.aten.searchsorted.Tensor: _searchsorted,
        },
        dynamo=True,
        verbose=False,
    )
    assert written is not None
    return written


def _log_sigmoid(x: Any) -> Any:
    """Compute -log(1 + e^-x): ONNX's own form, log σ(x), is -infinity below -88."""
    from onnxscript import opset18

    return opset18.Neg(opset18.Softplus(opset18.Neg(x)))


def _searchsorted(edges: Any, x: Any) -> Any:
    """Count the edges (D, M) below x (D, B), for (D, B): ONNX has no search."""
    from onnxscript import opset18

    below = opset18.Less(opset18.Unsqueeze(edges, [1]), opset18.Unsqueeze(x, [2]))
    return opset18.ReduceSum(opset18.Cast(below, to=7), [2], keepdims=0)


def _write_program(
    program: ExportedProgram, path: Path, outputs: tuple[str, ...], metadata: dict[str, Any]
) -> None:
    # Not to the path itself: torch's writer aborts the process where the disk is full.
    written = BytesIO()
    torch.export.save(program, written, extra_files={METADATA_FILE: json.dumps(metadata)})
    path.write_bytes(written.getbuffer())


def _read_onnx(path: Path, outputs: tuple[str, ...]) -> Callable[[Tensor], Outputs]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Outputs:
        values = session.run(list(outputs), {"x": x.numpy()})
        return dict(zip(outputs, map(torch.from_numpy, values), strict=True))

    return run


def _read_program(path: Path, outputs: tuple[str, ...]) -> Callable[[Tensor], Outputs]:
    module: Callable[[Tensor], Outputs] = torch.export.load(path).module()
    return module


WRITERS: dict[str, Callable[..., None]] = {"onnx": _write_onnx, "torch-export": _write_program}
READERS: dict[str, Callable[[Path, tuple[str, ...]], Callable[[Tensor], Outputs]]] = {
    "onnx": _read_onnx, "torch-export": _read_program,
}  # fmt: skip


def _compare(
    program: Callable[[Tensor], Outputs], model: GenerativeClassifier, x: Tensor
) -> Iterator[Difference]:
    """Compare with the model's own results, at each batch size."""
    for size in BATCH_SIZES:
        batch = x[torch.arange(size) % len(x)]
        for name, got in program(_as_input(model, batch)).items():
            expected = getattr(model, name)(batch)
            absolute = torch.where(got == expected, 0.0, (got - expected).abs())
            relative = absolute / expected.abs().clamp_min(1)
            yield Difference(name, size, float(absolute.max()), float(relative.max()))
