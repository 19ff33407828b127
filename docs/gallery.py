"""Pictures of the gallery, each drawn by the command that stands beside it: `make docs`.

    python docs/gallery.py FOLDER    # the same pictures, light and dark, into a folder

The models behind them are trained in a minute or two, on digits and small tables that need no
download. What is there already is not made again.
"""

from __future__ import annotations

import csv
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

LOW_DATA = (
    "study low-data ib-inn ce --data digits --sizes 50,200 --seeds 0,1 --updates 60 --workers 1 "
    "--out RUNS/low-data"
)
SWEEP = "sweep ib-inn --betas 0.1,1,10 --data digits --epochs 2 --workers 1 --out RUNS/sweep"
POINTS = " ".join(f"RUNS/sweep/ib-inn-beta={beta}-seed=0" for beta in ("0.1", "1", "10"))
PLANE = "sweep RUNS/sweep --workers 1"
# What the pictures are of, in this order; the first file that each leaves says that it is done.
MODELS = {
    "digits/summary.json": "train ib-inn --data digits --beta 0.2 --epochs 20 "
    "--set data.validation=0.15 --no-baselines --out RUNS/digits",
    "vib/summary.json": "train vib --data digits --epochs 10 --no-baselines --out RUNS/vib",
    "wine/summary.json": "train ib-inn --data RUNS/wine.csv --set data.target=class --epochs 20 "
    "--no-baselines --out RUNS/wine",
    "colours/summary.json": "train ib-inn --data RUNS/colours.npz --epochs 3 --no-baselines "
    "--out RUNS/colours",
    "labels/summary.json": "train untapped --data digits --epochs 5 --no-baselines "
    "--out RUNS/labels",
    "sweep/trade-off.png": SWEEP,
    "sweep/ib-inn-beta=10-seed=0/evaluation.json": f"evaluate {POINTS} --suite information "
    "--no-baselines",
    "sweep/information-plane.png": PLANE,
    "low-data/low-data.png": LOW_DATA,
}


@dataclass(frozen=True)
class Shown:
    """Picture of the gallery."""

    name: str
    draws: str  # the function of flowclf.figures behind it
    tells: str  # in a sentence
    command: str  # that makes it: RUNS stands for the folder of the models, OUT for the picture
    made: str = ""  # a file that the command leaves, if it takes no --out


GALLERY = {
    "Images": (
        Shown("samples", "sample_figure", "Images that the model drew, a row a class.",
              "sample RUNS/digits --per-class 10 --temperature 0.5 --out OUT"),
        Shown("temperature", "temperature_figure", "The same draws, nearer to and further from "
              "the classes' centres.",
              "sample RUNS/digits --per-class 4 --temperature 0.2,0.6,1 --out OUT"),
        Shown("interpolation", "interpolation_figure", "Straight lines in latent space between "
              "two test images, whose classes stand beside.",
              "interpolate RUNS/digits --pairs 5 --out OUT"),
        Shown("two-runs", "model_interpolation_figure", "The same lines through the latent spaces "
              "of several runs.",
              "interpolate RUNS/digits RUNS/sweep/ib-inn-beta=1-seed=0 --pairs 4 --out OUT"),
        Shown("means", "mean_walk_figure", "From class mean to class mean.",
              "interpolate RUNS/digits --between means --classes 3-8,1-7,4-9 --out OUT"),
        Shown("walk", "ambiguous_walk_figure", "From class to class through the test image that "
              "could be either, with the posterior beneath.",
              "interpolate RUNS/digits --between classes --classes 3-8,4-9 --out OUT"),
        Shown("reconstructions", "reconstruction_figure", "Images, and what is decoded from their "
              "latents: of a flow they are the same.",
              "figure RUNS/digits --kind reconstructions --out OUT"),
        Shown("explain", "explain_figure", "The least certain predictions: which pixels speak for "
              "the class, and the way to the runner-up.",
              "figure RUNS/digits --kind explain --out OUT"),
        Shown("explain-table", "explain_figure", "The same of a table, by its columns' names.",
              "figure RUNS/wine --kind explain --out OUT"),
        Shown("extraction", "extraction_figure", "What each label of a system with labels among "
              "its latents stands for.", "figure RUNS/labels --kind extraction --out OUT"),
        Shown("trajectory", "trajectory_figure", "The way of an image through latent space as its "
              "colours are rotated.", "figure RUNS/colours --kind trajectory --out OUT"),
    ),
    "Latents": (
        Shown("latent", "latent_figure", "The test set in the plane of the class means.",
              "figure RUNS/digits --kind latent --out OUT"),
        Shown("latents", "latent_panels", "The same of several runs.",
              "figure RUNS/digits --kind latent --beside RUNS/vib --out OUT"),
        Shown("principal", "principal_figure", "The test set on its first principal components.",
              "figure RUNS/digits --kind principal --out OUT"),
        Shown("similarity", "similarity_figure", "How far apart the classes are, on a scale that "
              "is no finer than the error of such a distance.",
              "figure RUNS/digits --kind similarity --out OUT"),
        Shown("landscape", "landscape_figure", "The losses of a latent in the plane through three "
              "class means.", "figure RUNS/digits --kind landscape --classes 3-8 --out OUT"),
    ),
    "Measures": (
        Shown("reliability", "reliability_figure", "Is it as often right as it says? Intervals "
              "are of 95 %, and beneath is how many samples say so.",
              "figure RUNS/digits --kind reliability --out OUT"),
        Shown("confusion", "confusion_figure", "Which classes are taken for which.",
              "figure RUNS/digits --kind confusion --out OUT"),
        Shown("roc", "roc_figure", "How well data of another kind are told from the test set.",
              "figure RUNS/digits --kind roc --out OUT"),
        Shown("scores", "score_histograms", "The scores behind it.",
              "figure RUNS/digits --kind scores --out OUT"),
        Shown("entropy", "score_histograms", "The same by the entropy of the posterior.",
              "figure RUNS/digits --kind scores --score entropy --out OUT"),
        Shown("shift", "corruption_figure", "Accuracy and calibration on corrupted images.",
              "figure RUNS/digits --kind shift --out OUT"),
        Shown("attack", "attack_figure", "Accuracy under attack, and whether it is noticed.",
              "figure RUNS/digits --kind attack --out OUT"),
        Shown("sample-quality", "sample_quality_figure", "How good samples are at each "
              "temperature, to a network that was trained on real images.",
              "figure RUNS/digits --kind sample-quality --out OUT"),
        Shown("learning", "learning_figure", "How the training went.",
              "figure RUNS/digits --kind learning --out OUT"),
        Shown("trade-off", "trade_off_figure", "Every measure along β̃.",
              SWEEP, "sweep/trade-off.png"),
        Shown("low-data", "low_data_figure", "Accuracy and calibration by the number of training "
              "samples.", LOW_DATA, "low-data/low-data.png"),
        Shown("information-plane", "information_plane_figure", "What the latents know of the "
              "class and of the input: drawn once the runs are evaluated for it.",
              PLANE, "sweep/information-plane.png"),
        Shown("information", "information_figure", "Estimates of information by the number of "
              "samples, of rows of `benchmarks.flowclf.information`.",
              "figure RUNS/vib --kind information --rows RUNS/information.csv --out OUT"),
    ),
}  # fmt: skip


def shown() -> Iterator[Shown]:
    """Yield all pictures in order."""
    for pictures in GALLERY.values():
        yield from pictures


def draw(folder: Path, *, dark: bool = False) -> None:
    """Make the models, in models/ of the folder, and the pictures that are not there yet.

    Raises:
        RuntimeError: a command that failed.
    """
    runs = folder / "models"
    runs.mkdir(parents=True, exist_ok=True)
    _write_tables(runs)
    for left, command in MODELS.items():
        if not (runs / left).exists():
            _run(command, runs)
    for each in shown():
        out = folder / f"{each.name}.png"
        if each.made and not out.exists():
            shutil.copyfile(runs / each.made, out)
        for place, option in ((out, ""), (folder / f"{each.name}-dark.png", " --dark")):
            if not each.made and (dark or not option) and not place.exists():
                _run(each.command + option, runs, place)


def _run(command: str, runs: Path, out: Path | None = None) -> None:
    from flowclf.cli.app import run

    places = {"RUNS": str(runs), "OUT": str(out)}
    words = [re.sub("RUNS|OUT", lambda m: places[m[0]], word) for word in shlex.split(command)]
    with redirect_stdout(StringIO()) as said, redirect_stderr(said):
        failed = run(words)
    if failed:
        raise RuntimeError(f"flowclf {shlex.join(words)} failed:\n{said.getvalue()}")


def _write_tables(runs: Path) -> None:
    """Write wine.csv, with the names of its columns, and colours.npz, digits in colours."""
    import numpy as np
    from sklearn.datasets import load_digits, load_wine

    wine, digits = load_wine(), load_digits()
    with (runs / "wine.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([*wine.feature_names, "class"])
        rows = zip(wine.data.tolist(), wine.target_names[wine.target].tolist(), strict=True)
        table.writerows([*row, f"cultivar {name[-1]}"] for row, name in rows)
    grey, rng = digits.images[:600] * (255 / 16), np.random.default_rng(0)
    x = (grey[..., None] * rng.uniform(0.2, 1, (600, 1, 1, 3))).astype(np.uint8)
    y = digits.target[:600].astype(np.int64)
    arrays = {"x_train": x[:500], "y_train": y[:500], "x_test": x[500:], "y_test": y[500:]}
    np.savez(runs / "colours.npz", **arrays)
    rows_of = Path(__file__).parents[1] / "benchmarks/flowclf/results/vae-as-information.csv"
    shutil.copyfile(rows_of, runs / "information.csv")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), dark=True)
