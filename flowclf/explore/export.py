"""The page as one offline file: the model as ONNX, run in the browser by onnxruntime-web."""

from __future__ import annotations

import base64
import gzip
import hashlib
import shutil
import subprocess
import tarfile
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from flowclf.evaluation.scores import joint_moments
from flowclf.explore.explorer import Explorer
from flowclf.explore.page import page
from flowclf.export import Scores, check_packages, exporting, onnx_program, traced
from flowclf.support.atomic_files import write_text, write_whole
from flowclf.support.errors import UserError, printable

__all__ = ["RUNTIME", "Show", "fetch_runtime", "write_page"]

RUNTIME = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm":
    "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}  # fmt: skip
"""Files of onnxruntime-web, and their SHA-256."""
VERSION = "1.30.0"
# As the files of the page are to be mailed: fewer samples than on a server's page.
MOST_SAMPLES, MOST_NUMBERS = 400, 400_000
SCORE = "parts-of-density"


class Show(nn.Module):
    """Module from latents z (B, D) to log q(k|z), and to x of a system that decodes."""

    def __init__(self, explorer: Explorer) -> None:
        super().__init__()
        self.model = explorer.model

    def forward(self, z: Tensor) -> dict[str, Tensor]:
        """Compute `log_posterior` and, if the model decodes, `x`."""
        found = {"log_posterior": self.model.densities(z).log_posterior}
        return found | ({"x": self.model._decode(z)} if self.model.can_decode else {})


def write_page(explorer: Explorer, path: Path, runtime: Path) -> dict[str, Any]:
    """Write the page of one model, on the CPU, to an .html file; return path and bytes.

    Args:
        explorer: of the model.
        path: the file.
        runtime: folder with the files of onnxruntime-web, see `fetch_runtime`.

    Raises:
        UserError: another ending of the name, files that differ, a model that torch cannot follow,
            packages that are missing.
    """
    if path.suffix.lower() != ".html" or path.is_dir():
        raise UserError(f"expected --export to name a file ending in .html, got {path}")
    check_packages()
    script, wasm = (_checked(runtime / name) for name in RUNTIME)
    told = {"runs": 1, "wasm": _packed(wasm), **_told(explorer)}
    text = page(told, model="file", more={"ort": script.decode("utf-8")})
    write_text(path, text)
    return {"page": str(path), "bytes": path.stat().st_size}


def fetch_runtime() -> Path:
    """Return a folder with the files of onnxruntime-web, fetched once by npm from its package.

    Raises:
        UserError: npm is not there or could not fetch it, or the files are others.
    """
    from flowclf.data.source import user_cache

    folder = user_cache() / f"onnxruntime-web-{VERSION}"
    if all((folder / name).is_file() for name in RUNTIME):
        return folder
    remedy = "name a folder that holds its dist files with --ort"
    if (npm := shutil.which("npm")) is None:
        raise UserError(f"expected npm to fetch onnxruntime-web with, found none; {remedy}")
    with TemporaryDirectory() as place:
        words = [npm, "pack", f"onnxruntime-web@{VERSION}", "--silent", "--pack-destination", place]
        done = subprocess.run(words, capture_output=True, text=True, cwd=place)
        archive = next(Path(place).glob("*.tgz"), None)
        if done.returncode or archive is None:
            reason = printable(done.stderr.strip().partition("\n")[0]) or "no archive"
            raise UserError(f"npm could not fetch onnxruntime-web {VERSION} ({reason}); {remedy}")
        with tarfile.open(archive) as files:
            for name in RUNTIME:
                member = files.extractfile(f"package/dist/{name}")
                assert member is not None
                content = _verified(member.read(), folder / name)
                write_whole(folder / name, partial(_write, content))
    return folder


def _write(content: bytes, part: Path) -> None:
    part.write_bytes(content)


def _checked(file: Path) -> bytes:
    """Read a file of the runtime, which must be the very one that the page was made for."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"expected {file.name} of onnxruntime-web {VERSION} in {file.parent}, got "
            f"{error.strerror}; `npm pack onnxruntime-web@{VERSION}` has it in package/dist"
        ) from None
    return _verified(content, file)


def _verified(content: bytes, file: Path) -> bytes:
    if hashlib.sha256(content).hexdigest() != RUNTIME[file.name]:
        raise UserError(f"{file}: expected the file of onnxruntime-web {VERSION}, got another")
    return content


def _told(explorer: Explorer) -> dict[str, Any]:
    """Return all that the page asks a server for, once and for all."""
    model, wire = explorer.model, explorer.wire
    kept = explorer.test.spread(min(MOST_SAMPLES, MOST_NUMBERS // model.dims))
    small = Explorer(explorer.task, explorer.folder, kept)
    planes = {}
    for plane in ("means", "principal"):
        points = small.call("points", {"plane": plane})
        centre, basis = small.plane
        planes[plane] = points | {"centre": _numbers(centre), "basis": _numbers(basis)}
    mixture = model.mixture
    calibration, p_values = _calibration(small)
    with exporting(model):
        x = model.noise.to_points(kept.x[:1]).float()
        programs = {
            "see": _onnx(Scores(model, latents=True), "x", x),
            "show": _onnx(Show(explorer), "z", small.z[:1]),
        }
    return {
        "facts": small.facts() | {"samples": len(kept)},
        "planes": planes, "pictures": wire.pack(kept.x), "z": _numbers(small.z),
        "centres": _numbers(mixture.centres()), "averages": _numbers(mixture.class_means(
            torch.arange(model.classes), "data")),
        "std": _numbers(mixture.std()), "radius": small.radius, "levels": wire.levels,
        "middle": model.noise.level_middle, "calibration": calibration, "p_value": p_values,
        "programs": programs,
    }  # fmt: skip


def _calibration(explorer: Explorer) -> tuple[dict[str, Any] | None, Any]:
    """Return what p-values and sets are made of, and the p-values; None without a density."""
    if not explorer.model.has_density:
        return None, None
    decider, note = explorer.calibrated(SCORE)
    known = decider.reference.statistics
    mean, std, precision = joint_moments([known["nll_per_dim"], known["log_det_per_dim"]])
    return {
        "mean": mean.tolist(), "std": std.tolist(), "precision": precision.tolist(),
        "scores": _numbers(decider.scores.sort().values), "level": decider.false_alarm,
        "limits": decider.limits.tolist(), "note": note,
    }, [round(p, 4) for p in decider(explorer.test.x).p_value.tolist()]  # fmt: skip


def _onnx(module: nn.Module, argument: str, example: Tensor) -> str:
    """Return a module as ONNX, packed."""
    outputs = tuple(module(example))
    written = onnx_program(traced(module.eval(), argument, example), argument, outputs)
    return _packed(written.model_proto.SerializeToString())


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _numbers(x: Tensor) -> str:
    """Return numbers as base64 of float32, little-endian."""
    return base64.b64encode(x.detach().cpu().float().contiguous().numpy().tobytes()).decode()
