"""Frozen features: an IB-INN beside a logistic probe, neighbours and Mahalanobis distances.

    python -m benchmarks.flowclf.frozen_features [TASK …] [--seeds 0]

extraction: EfficientNet-Lite0 on 10,000 training images, drawn by class, on one thread, not cached.
cifar10: these and all test images; outliers are CIFAR-100's test images. held-out: the same
features of eight classes, and the test images of the other two as outliers, for each pair of
`PAIRS`. photos: three classes, 80 images each at 64x64, a fifth of them for the test, drawn with
the seed. ag-news: WordLlama on 200 labels and on 80 %.

Settings are those of the preset, and the score of outliers is `SCORE`: both were chosen on the
training images, where 8,000 were trained on and cat and horse were the outliers. Rows of probes are
of the model's components and, "of all", of all features. The difference of accuracies is to
the logistic probe on all features, its C chosen by three-fold cross-validation. Rows go to
results/frozen-features.csv.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.results import append_rows, recorded
from flowclf.config import make_config
from flowclf.data import Dataset, Split, from_arrays, load_dataset, stratified
from flowclf.data.extractors import find_extractor
from flowclf.data.feature_cache import extracted
from flowclf.data.featured import load_features, with_features
from flowclf.data.features import principal_components, usual_dims
from flowclf.data.fitting import fitted
from flowclf.data.source import DataSource
from flowclf.data.text import TextOptions, read_split
from flowclf.evaluation import predict_split
from flowclf.evaluation.baselines import baseline_rows
from flowclf.evaluation.calibration import expected_calibration_error
from flowclf.evaluation.detection import auroc
from flowclf.evaluation.probes import gaussians, neighbours, outlier_distances
from flowclf.evaluation.scores import Reference, model_scores
from flowclf.support.errors import UserError
from flowclf.training import Trained, train

SCORE = "relative-distance"
IMAGES, PHOTOS = 10_000, 80
PAIRS = ((0, 1), (4, 5))  # neither cat nor horse
KINDS = {"cat": 3, "dog": 5, "ship": 8}
C = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
DRAWS = 200
Row = dict[str, Any]


def extraction(seed: int) -> Iterator[Row]:
    """Time the extraction of the training images, on one thread."""
    data, extractor = _cifar(seed), find_extractor("efficientnet-lite0")
    start = time.perf_counter(), time.process_time()
    found = extractor(data.train.x)
    seconds, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    empty = Dataset(data.name, Split(found, data.train.y), data.test, data.class_names)
    row = _row(extractor.name, empty, {"accuracy": None, "ece": None}, seed, seconds, cpu)
    yield {"task": "extraction", "outliers": "", **row}


def cifar10(seed: int) -> Iterator[Row]:
    """Train on all ten classes; CIFAR-100 is unusual."""
    data, other = _cifar(seed), load_dataset("cifar100").test
    made = _featured(data, seed)
    assert made.features is not None
    raws = _raw(data.train.x), _raw(data.test.x), _raw(other.x)
    for row in compared(made, made.features(other.x), raws, seed):
        yield {"task": "cifar10", "outliers": "cifar100", **row}


def held_out(seed: int) -> Iterator[Row]:
    """Train on eight classes; the other two are unusual."""
    data = _cifar(seed)
    for pair in PAIRS:
        kept = [k for k in range(data.classes) if k not in pair]
        parts = [(_raw(split.x), split.y) for split in (data.train, data.test)]
        raws = [x[torch.isin(y, torch.tensor(kept))] for x, y in parts]
        raws.append(parts[1][0][torch.isin(parts[1][1], torch.tensor(pair))])
        mean, components = principal_components(raws[0], usual_dims(len(raws[0])))
        x, x_test, outside = (((r - mean) @ components.T).float() for r in raws)
        number = torch.full((data.classes,), -1)
        number[kept] = torch.arange(len(kept))
        y, y_test = (number[y][number[y] >= 0] for _, y in parts)
        names = tuple(data.class_names[k] for k in kept)
        made = Dataset(data.name, Split(x, y), Split(x_test, y_test), names)
        named = "+".join(data.class_names[k] for k in pair)
        for row in compared(made, outside, tuple(raws), seed, probe_all=False):
            yield {"task": "held-out", "outliers": named, **row}


def photos(seed: int) -> Iterator[Row]:
    """Train on 192 photographs of three classes, and test on 48."""
    data = load_dataset("cifar10")
    rows = torch.cat([(data.train.y == k).nonzero()[:PHOTOS, 0] for k in KINDS.values()])
    x = fitted(data.train.x[rows], (3, 64, 64))
    own = from_arrays(x, data.train.y[rows], name="photos", split_seed=seed)
    raws = _raw(own.train.x), _raw(own.test.x)
    for row in compared(_featured(own, seed), None, raws, seed):
        yield {"task": "photos", "outliers": "", **row}


def ag_news(seed: int) -> Iterator[Row]:
    """Train on 200 labels, and on 80 % of 7,600."""
    for size in (200, None):
        root = next((r for r in DataSource().roots() if (r / "ag_news").is_dir()), None)
        if root is None:
            raise UserError("expected ag_news/test.csv below FLOWCLF_DATA, got none")
        path, text = str(root / "ag_news" / "test.csv"), TextOptions("1,2", "0", 1, size, seed)
        settings = _config("wordllama", "ag-news", seed).data
        made = load_features(path, settings, seed, text=text)
        texts = read_split(Path(path), text)[:2]
        raws = tuple(extracted(find_extractor("wordllama"), part, 0) for part in texts)
        for row in compared(made, None, raws, seed):
            yield {"task": "ag-news", "outliers": "", **row}


def compared(
    data: Dataset,
    outside: Tensor | None,
    raw: tuple[Tensor, ...] | None,
    seed: int,
    probe_all: bool = True,
) -> Iterator[Row]:
    """Yield the rows of an IB-INN and of each probe.

    Args:
        data: features.
        outside: those of outliers.
        raw: all features of training, test and, where there are any, outliers; None: no rows.
        seed: of the training.
        probe_all: whether to fit a logistic probe to all features, too.
    """
    start = time.process_time()
    trained = _train(data, seed)
    cpu = time.process_time() - start
    found = predict_split(trained.model, data.test)
    right = (found.log_posterior.argmax(1) == data.test.y).double()
    own = _row("ib-inn", data, trained.summary["test"], seed, trained.summary["seconds"], cpu)
    own["precision"] = trained.precision
    probe = None
    probe_all = probe_all and raw is not None
    if raw is not None and probe_all:
        logistic, best = _logistic(data, raw)
        probe = (logistic.argmax(1) == data.test.y).double()
        own |= _difference(right, probe)
    if outside is not None:
        own |= _told(trained, data, outside)
    yield own
    if probe is not None:
        values = {"accuracy": float(probe.mean())}
        values["ece"] = expected_calibration_error(logistic, data.test.y)
        yield _row(f"logistic regression of all, C = {best:g}", data, values, seed)
    distances = {} if outside is None else _distances(data.train, data.test.x, outside)
    for row in baseline_rows(data.train, data.test, None, features=True):
        name = str(row["system"])
        yield _row(name, data, row, seed, row["seconds"]) | distances.get(name, {})
    if raw is not None and len(raw) == 3:
        split = Split(raw[0], data.train.y)
        for name, values in _distances(split, raw[1], raw[2]).items():
            fit = neighbours if name == "k-NN" else gaussians
            posterior = fit(split, raw[1], data.classes)[0].log_softmax(1)
            right = (posterior.argmax(1) == data.test.y).double()
            whole = {"accuracy": float(right.mean())}
            whole["ece"] = expected_calibration_error(posterior, data.test.y)
            yield _row(f"{name} of all", data, whole, seed) | values


def _row(
    system: str, data: Dataset, values: Row, seed: int, seconds: float = 0.0, cpu: float = 0.0
) -> Row:
    return {
        "system": system,
        "seed": seed,
        "samples": len(data.train),
        "test": len(data.test),
        "dims": data.shape[0],
        "accuracy": values["accuracy"],
        "ece": values["ece"],
        "bits_per_dim": values.get("bits_per_dim"),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "precision": "32-true",
        **dict.fromkeys(("accuracy_gain", "gain_low", "gain_high")),
        **dict.fromkeys(("score", "auroc", "auroc_low", "auroc_high", "auto_auroc")),
        **dict.fromkeys(("auroc_gain_knn", "knn_low", "knn_high")),
        **dict.fromkeys(("auroc_gain_mahalanobis", "mahalanobis_low", "mahalanobis_high")),
    }


def _told(trained: Trained, data: Dataset, outside: Tensor) -> Row:
    """Return the AUROC of the scores, and how far it is above those of the probes."""
    reference = Reference.fit(trained.model, data.train.x)
    own, other = (model_scores(trained.model, x, reference) for x in (data.test.x, outside))
    inside, beyond = own[SCORE], other[SCORE]
    found = {"score": SCORE, **_area(inside, beyond)}
    found["auto_auroc"] = auroc(own["auto"], other["auto"]).value
    probes = [outlier_distances(data.train, x) for x in (data.test.x, outside)]
    for name, short in (("k-NN of x", "knn"), ("Mahalanobis of x", "mahalanobis")):
        gain, low, high = _paired((inside, beyond), (probes[0][name], probes[1][name]))
        found |= {f"auroc_gain_{short}": gain, f"{short}_low": low, f"{short}_high": high}
    return found


def _distances(training: Split, test: Tensor, outside: Tensor) -> dict[str, Row]:
    inside, beyond = (outlier_distances(training, x) for x in (test, outside))
    return {
        name.removesuffix(" of x"): {"score": "distance", **_area(inside[name], beyond[name])}
        for name in inside
    }


def _area(inside: Tensor, outside: Tensor) -> Row:
    found = auroc(inside, outside)
    return {"auroc": found.value, "auroc_low": found.low, "auroc_high": found.high}


def _difference(right: Tensor, other: Tensor) -> Row:
    """Return how much more accurate, with the 95 % interval of paired samples."""
    gain = right - other
    half = 1.96 * float(gain.std()) / len(gain) ** 0.5
    mean = float(gain.mean())
    return {"accuracy_gain": mean, "gain_low": mean - half, "gain_high": mean + half}


def _paired(own: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[float, float, float]:
    """Return the difference of two AUROCs with the 95 % interval of a paired bootstrap."""
    generator = torch.Generator().manual_seed(0)

    def gain(*rows: Tensor) -> float:
        a, b = (auroc(*(v[r] for v, r in zip(pair, rows, strict=True))) for pair in (own, other))
        return a.value - b.value

    whole = [torch.arange(len(values)) for values in own]
    drawn = torch.tensor(
        [
            gain(*(torch.randint(len(r), (len(r),), generator=generator) for r in whole))
            for _ in range(DRAWS)
        ]
    )
    low, high = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
    return gain(*whole), low, high


def _logistic(data: Dataset, raw: tuple[Tensor, ...]) -> tuple[Tensor, float]:
    """Return log q(k|x) (N, K) of the test split by all features, and the C of the penalty."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    mean, std = raw[0].mean(0), raw[0].std(0).clamp_min(1e-6)
    x, test = (((part - mean) / std).numpy() for part in raw[:2])
    models = {c: LogisticRegression(C=c, max_iter=50) for c in C}
    scores: dict[float, float] = {}
    for c, model in models.items():
        scores[c] = float(cross_val_score(model, x, data.train.y.numpy(), cv=3).mean())
        if scores[c] < max(scores.values()):
            break
    best = max(scores, key=lambda c: scores[c])
    model = LogisticRegression(C=best, max_iter=200).fit(x, data.train.y.numpy())
    return torch.from_numpy(model.predict_log_proba(test)), best


def _train(data: Dataset, seed: int) -> Trained:
    return train(_config("efficientnet-lite0", data.name, seed), data, device="cpu")


def _config(features: str, name: str, seed: int) -> Any:
    overrides = {"data.features": features}
    return make_config("ib-inn", name, (1,), seed=seed, overrides=overrides)


def _cifar(seed: int) -> Dataset:
    data = load_dataset("cifar10")
    return Dataset(
        data.name, stratified(data.train, IMAGES, seed)[0], data.test, data.class_names, data.levels
    )


def _featured(data: Dataset, seed: int) -> Dataset:
    config = _config("efficientnet-lite0", data.name, seed)
    return with_features(data, config.data, seed)


def _raw(x: Tensor) -> Tensor:
    """Return all features of images, which are extracted once."""
    return extracted(find_extractor("efficientnet-lite0"), x, 256)


TASKS = {
    "extraction": extraction,
    "cifar10": cifar10,
    "held-out": held_out,
    "photos": photos,
    "ag-news": ag_news,
}


def main() -> None:
    """Run the tasks; print and record the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=[*TASKS], choices=[*TASKS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    torch.set_num_threads(1)
    for task in given.tasks:
        for seed in given.seeds:
            rows = [*TASKS[task](seed)]
            append_rows(recorded("frozen-features.csv"), rows)
            for row in rows:
                shown = {k: v for k, v in row.items() if v is not None}
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in shown.items()})


if __name__ == "__main__":
    main()
