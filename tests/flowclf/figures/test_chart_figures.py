"""Charts of what was measured show the rows, bins and scores they were given."""

from math import inf, log, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn import band_at, texts
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch

from flowclf import build
from flowclf.data import Split
from flowclf.data.outliers import Outliers
from flowclf.evaluation import Options, Subject, evaluate_subject
from flowclf.evaluation.calibration import Reliability, reliability, wilson_interval
from flowclf.evaluation.detection import auroc
from flowclf.figures import save_figure
from flowclf.figures.curves import (
    attack_figure,
    corruption_figure,
    information_figure,
    low_data_figure,
    sample_quality_figure,
)
from flowclf.figures.evaluation import (
    confusion_figure,
    evaluation_figures,
    reliability_figure,
    roc_figure,
    score_histograms,
)
from flowclf.support.errors import UserError

Row = dict[str, Any]


def assert_written(figure: Figure, path: Path) -> None:
    save_figure(figure, path)
    assert path.stat().st_size > 5000


# Reliability.


@pytest.fixture
def binned(generator: torch.Generator) -> Reliability:
    log_posterior = (2 * torch.randn(900, 5, generator=generator)).log_softmax(1)
    y = torch.multinomial(log_posterior.exp(), 1, generator=generator)[:, 0]
    return reliability((2 * log_posterior).log_softmax(1), y)


def test_dots_are_accuracies_with_intervals_and_bars_are_counts(
    binned: Reliability, tmp_path: Path
) -> None:
    figure = reliability_figure({"one": binned, "two": binned})
    assert len(figure.axes) == 4
    upper, lower = figure.axes[0], figure.axes[2]
    bars = [patch.get_height() for patch in lower.patches if isinstance(patch, Rectangle)]
    assert bars == binned.count.tolist()
    filled = binned.count > 0
    assert texts(lower.texts) == [f"{count:,}" for count in binned.count[filled].tolist()]
    dots = np.concatenate([line.get_xydata() for line in upper.lines[1:]])
    assert dots[:, 0].tolist() == pytest.approx((100 * binned.confidence[filled]).tolist())
    assert dots[:, 1].tolist() == pytest.approx((100 * binned.accuracy[filled]).tolist())
    last = upper.collections[-1].get_segments()[0]
    count, share = int(binned.count[-1]), float(binned.accuracy[-1])
    ends = wilson_interval(round(count * share), count)
    assert last[:, 1].tolist() == pytest.approx([100 * end for end in ends])
    assert upper.get_title().startswith("one: confidence is off by")
    assert f"{100 * binned.expected_error:.1f} %" in upper.get_title()
    for systems in (1, 4):
        found = {f"system {i}": binned for i in range(systems)}
        assert_written(reliability_figure(found), tmp_path / f"{systems}.png")
    with pytest.raises(UserError, match="one system or more"):
        reliability_figure({})


def test_nothing_joins_bins_and_one_sample_has_a_hollow_dot_without_an_interval() -> None:
    p = torch.tensor([[0.9, 0.1]] * 5 + [[0.55, 0.45]])
    upper = reliability_figure({"x": reliability(p.log(), torch.tensor([0, 0, 0, 0, 1, 1]))}).axes[
        0
    ]
    diagonal, *dots = upper.lines
    assert [len(dot.get_xydata()) for dot in dots] == [1, 1]
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [True, False]
    assert len(upper.collections) == 1


def test_confusion_writes_no_zeros_and_names_the_commonest_error() -> None:
    counts = torch.tensor([[5, 0, 3], [1, 7, 0], [0, 0, 9]])
    axes = confusion_figure(counts, ("a", "b", "c")).axes[0]
    assert sorted(texts(axes.texts)) == ["1", "3", "5", "7", "9"]
    assert (
        axes.get_title() == "4 of 25 test samples are misclassified,\nmost often a as c (3 times)"
    )
    perfect = confusion_figure(torch.eye(3).long(), ("a", "b", "c")).axes[0]
    assert perfect.get_title() == "0 of 3 test samples are misclassified"


# Scores of out-of-distribution data.


def histograms(figure: Figure) -> list[tuple[np.ndarray, np.ndarray]]:
    """Values and edges of each panel: of what is inside, and of the set."""
    patches = [p for axes in figure.axes for p in axes.patches if isinstance(p, StepPatch)]
    return [(np.asarray(p.get_data().values), np.asarray(p.get_data().edges)) for p in patches]


def test_histograms_are_densities_on_common_bins(generator: torch.Generator) -> None:
    inside = torch.randn(500, generator=generator)
    outside = {"near": inside[:200] + 1, "far": 3 + inside}
    figure = score_histograms(inside, outside, "-log q(x) / d, nats", "digits", "by density")
    found = histograms(figure)
    assert [axes.get_ylabel() for axes in figure.axes] == ["near", "far"]
    assert figure.axes[-1].get_xlabel() == "-log q(x) / d, nats"
    assert texts(figure.axes[1].texts) == [f"{auroc(inside, outside['far']).value:.3f}"]
    assert figure.get_suptitle().startswith("by density\ngrey: digits")
    assert len(found) == 4
    for values, edges in found:
        assert np.array_equal(edges, found[0][1])
        assert (values * np.diff(edges)).sum() == pytest.approx(1)
    centres = (found[0][1][1:] + found[0][1][:-1]) / 2
    means = [float((values * centres).sum() / values.sum()) for values, _ in found]
    expected = [float(s.mean()) for s in (inside, outside["near"], inside, outside["far"])]
    assert means == pytest.approx(expected, abs=0.1)


def test_scores_of_many_orders_of_magnitude_have_a_logarithmic_axis(
    generator: torch.Generator,
) -> None:
    inside = 10 ** (3 * torch.randn(500, generator=generator) - 5).clamp_max(0)
    figure = score_histograms(inside, {"x": inside * 10, "zero": inside * 0}, "entropy")
    assert {axes.get_xscale() for axes in figure.axes} == {"log"}
    for values, edges in histograms(figure):
        assert (values * np.diff(np.log10(edges))).sum() == pytest.approx(1)


def test_extreme_scores_do_not_squash_the_rest_and_constant_ones_are_drawn(
    generator: torch.Generator,
) -> None:
    inside = torch.randn(1000, generator=generator)
    outside = torch.cat((inside, torch.tensor([1e9, inf, -inf])))
    values, edges = histograms(score_histograms(inside, {"x": outside}, "score"))[1]
    assert edges[-1] - edges[0] < 10
    assert (values * np.diff(edges)).sum() == pytest.approx(1)
    for value in (0.0, 1e5, inf):
        same = torch.full((5,), value)
        found = histograms(score_histograms(same, {"x": same}, "score"))
        assert all(np.isfinite(values).all() for values, _ in found)


def test_curves_go_from_corner_to_corner(generator: torch.Generator) -> None:
    inside = torch.randn(200, generator=generator)
    figure = roc_figure(inside, {"apart": inside + 100, "alike": inside}, "typicality")
    chance, apart, alike = [np.asarray(line.get_xydata()) for line in figure.axes[0].lines]
    for line in (chance, apart, alike):
        assert line[0].tolist() == [0, 0]
        assert line[-1].tolist() == [100, 100]
    assert [0, 100] in apart.tolist()
    assert np.allclose(alike[:, 0], alike[:, 1])
    first, second = texts(figure.axes[0].get_legend().get_texts())
    assert first == "apart: 1.000 (1.000 to 1.000)"
    assert second.startswith("alike: 0.500 (0.4")


def test_scores_that_are_no_numbers_are_refused() -> None:
    outside = {"x": torch.tensor([nan])}
    with pytest.raises(UserError, match="NaN"):
        score_histograms(torch.zeros(2), outside, "s")
    with pytest.raises(UserError, match="NaN"):
        roc_figure(outside["x"], outside)


# Robustness.


def shift_rows(drop: float) -> list[Row]:
    rows: list[Row] = [{"family": "clean", "severity": 0, "accuracy": 0.9, "ece": 0.02}]
    rows += [
        {"family": family, "severity": s, "accuracy": 0.9 - drop * s * place, "ece": 0.01 * s}
        for place, family in enumerate(("fog", "snow", "contrast"))
        for s in range(1, 6)
    ]
    mean = {"family": "mean", "accuracy": 0.0, "ece": 9.0}
    return [*rows, mean | {"severity": 1}, mean | {"severity": None}]


def attack_rows(auroc: float | None) -> list[Row]:
    rows = [(0.1, 0.4), (0.0, 0.9), (0.2, 0.1)]
    return [{"epsilon": e, "accuracy": a, "auroc": auroc} for e, a in rows]


def test_corruption_lines_are_means_over_families(tmp_path: Path) -> None:
    figure = corruption_figure({"one": shift_rows(0.05), "two": shift_rows(0.1)})
    accuracy, ece = figure.axes
    assert [line.get_label() for line in accuracy.lines] == ["one", "two"]
    assert list(accuracy.lines[0].get_xdata()) == [0, 1, 2, 3, 4, 5]
    expected = [90 - 5 * s for s in range(6)]
    assert list(accuracy.lines[0].get_ydata()) == pytest.approx(expected)
    assert list(ece.lines[1].get_ydata())[1:] == pytest.approx([1.0 * s for s in range(1, 6)])
    ends = [80 - 10 / 3**0.5, 80 + 10 / 3**0.5]
    assert band_at(accuracy.collections[0], 2) == pytest.approx(ends, abs=1e-5)
    assert [axes.get_ylabel() for axes in figure.axes] == ["accuracy in %", "ECE (15 bins) in %"]
    assert "band: ± one standard error over the kinds" in figure.get_suptitle()
    assert_written(figure, tmp_path / "curves.png")


def test_attack_lines_run_with_epsilon(tmp_path: Path) -> None:
    figure = attack_figure({"plain": attack_rows(None), "flow": attack_rows(0.8)})
    accuracy, auroc = figure.axes
    assert list(accuracy.lines[0].get_xdata()) == [0.0, 10, 20]
    assert list(accuracy.lines[0].get_ydata()) == [90, 40, 10]
    chance, flow = auroc.lines
    assert flow.get_label() == "flow"
    assert flow.get_color() == accuracy.lines[1].get_color() != accuracy.lines[0].get_color()
    assert list(flow.get_ydata()) == [80] * 3
    assert chance.get_ydata()[0] == 50
    assert_written(figure, tmp_path / "curves.svg")
    assert len(attack_figure({"plain": attack_rows(None)}).axes) == 1  # no densities


# Samples.


def test_quality_is_drawn_by_temperature_with_the_floor() -> None:
    rows = [
        {
            "temperature": t,
            "class_consistency": 1 - t / 2,
            "frechet_distance": t,
            "frechet_floor": 3,
        }
        for t in (1.0, 0.5)
    ]
    consistency, distance = sample_quality_figure({"one": rows}).axes
    assert consistency.lines[0].get_xydata().tolist() == [[0.5, 75], [1, 50]]
    assert distance.lines[0].get_xydata().tolist() == [[0.5, 0.5], [1, 1]]
    assert distance.lines[1].get_ydata()[0] == 3
    assert consistency.get_ylabel() == "class consistency in % ↑"


# Learning curves.


def size_row(system: str, size: int, accuracy: float, error: float | None = 0.01) -> Row:
    found = {"system": system, "train_size": size, "accuracy": (accuracy, error)}
    return found | {"ece": (0.1, error)}


ONE = [size_row("one", size, 0.5 + 0.1 * k) for k, size in enumerate((50, 100, 500))]
SIZES = [*reversed(ONE), *(size_row("two", size, 0.8, None) for size in (50, 100, 500))]


def test_learning_curves_are_means_on_a_logarithmic_axis(tmp_path: Path) -> None:
    figure = low_data_figure(SIZES, title="digits")
    accuracy, ece = figure.axes
    assert [line.get_label() for line in accuracy.lines] == ["one", "two"]
    assert list(accuracy.lines[0].get_xdata()) == [50, 100, 500]
    assert list(accuracy.lines[0].get_ydata()) == pytest.approx([50, 60, 70])
    assert list(ece.lines[1].get_ydata()) == pytest.approx([10, 10, 10])
    assert accuracy.get_xscale() == ece.get_xscale() == "log"
    assert texts(accuracy.get_xticklabels()) == ["50", "100", "500"]
    assert ece.get_ylim()[0] == 0
    one, two = accuracy.collections
    assert band_at(one, 100) == [59, 61]
    assert {y for size in (50, 100, 500) for y in band_at(two, size)} == {80}
    assert_written(figure, tmp_path / "low-data.png")


def test_references_are_grey_and_may_lack_sizes_and_many_sizes_share_few_ticks() -> None:
    rows = [*SIZES, size_row("QDA", 500, 0.9)]
    one, two, qda = low_data_figure(rows, references={"QDA"}).axes[0].lines
    assert list(qda.get_xdata()) == [500]
    assert qda.get_color() == "#777777" != one.get_color() != two.get_color()

    rows = [size_row("one", size, 0.5) for size in range(50, 1050, 50)]
    labels = texts(low_data_figure(rows).axes[0].get_xticklabels())
    assert len(labels) <= 8
    assert labels[-1] == "1,000"


# Estimates of information.


def estimate(estimator: str, samples: int | str, mi: float, md: float | str) -> Row:
    return {"estimator": estimator, "samples": samples, "mi_nats": mi, "md_nats": md}


ESTIMATES = [
    estimate("all", 1000, 6.5, 20.0),
    estimate("mini-batch", 100, log(100), 22.0),
    estimate("mini-batch", "10", log(10), "24.0"),
    estimate("mini-batch", 100, log(100) - 0.2, 23.0),
]


def test_a_line_an_estimator_with_its_limits() -> None:
    figure = information_figure(ESTIMATES, samples=2000, title="run")
    mi, md = figure.axes
    assert mi.get_ylabel() == "I(X; Z) in nats"
    assert md.get_ylabel() == "KL(q(z) ‖ p(z)) in nats"
    assert mi.get_xscale() == md.get_xscale() == "log"
    assert texts(mi.get_xticklabels()) == ["10", "100", "1,000"]
    level, single, batch, below, above = mi.lines
    assert level.get_ydata()[0] == 6.5
    assert list(single.get_xdata()) == [1000]
    assert list(batch.get_xdata()) == [10, 100]
    assert list(batch.get_ydata()) == pytest.approx([log(10), log(100) - 0.1])
    assert list(below.get_ydata()) == pytest.approx([log(10), log(100), log(1000)])
    assert above.get_ydata()[0] == pytest.approx(log(2000))
    assert list(md.lines[2].get_ydata()) == pytest.approx([24, 22.5])
    assert band_at(md.collections[1], 100) == [22, 23]
    names = ["all", "mini-batch", "log S", "log N, N = 2,000"]
    assert texts(figure.legends[0].get_texts()) == names


def test_the_largest_size_is_the_training_set_and_no_rows_are_refused() -> None:
    limit = information_figure(ESTIMATES).axes[0].lines[-1]
    assert limit.get_ydata()[0] == pytest.approx(log(1000))
    with pytest.raises(UserError, match=r"benchmarks\.flowclf\.information"):
        information_figure([])


# All of an evaluation.


def test_a_figure_for_each_suite_that_has_one(tmp_path: Path, generator: torch.Generator) -> None:
    x = torch.randint(256, (24, 1, 8, 8), generator=generator, dtype=torch.uint8)
    split = Split(x, torch.arange(24) % 3)
    model = build("ib-inn", shape=(1, 8, 8), classes=3)
    model.fit_statistics(split.x, split.y)
    inverted = (Outliers("inverted", 255 - x),)
    options = Options(inverted, ("brightness",), (1, 3), epsilons=(0.05, 0.1), samples=9)
    suites = ["reliability", "shift", "attack", "confusion", "clustering", "ood"]
    subject = Subject(model, split, split, options=options)
    results, names = evaluate_subject(subject, suites), ("a", "b", "c")
    paths = evaluation_figures("ib-inn", results, tmp_path, names, subject.outlier_scores)
    assert [path.stem for path in paths] == [
        "reliability", "shift", "attack", "confusion", "class_distances",
        "roc-negative-log-prob", "scores-negative-log-prob", "roc-typicality", "scores-typicality",
        "roc-entropy", "scores-entropy",
    ]  # fmt: skip
    assert all(path.stat().st_size > 5000 for path in paths)
    assert sum(row["count"] for row in results["reliability"]) == 24
    assert {row["epsilon"] for row in results["attack"]} == {0, 0.05, 0.1}
    assert evaluation_figures("ib-inn", {"accuracy": 1.0}, tmp_path, names) == []
