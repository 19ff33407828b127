"""The report: what it says of runs, that it is safe, small, and that its commands are true."""

import base64
import io
import re
import shlex
import shutil
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from itertools import product
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from flowclf.cli import train as train_verb
from flowclf.cli.app import run as command
from flowclf.config import RunConfig, flatten, make_config, nested
from flowclf.report import collect, render, write_report
from flowclf.report.charts import learning_charts, trade_off_charts
from flowclf.report.collect import with_baselines
from flowclf.report.pictures import embed_file
from flowclf.report.rows import best_rows, make_rows, varied_settings
from flowclf.report.settings import differing, train_command, written
from flowclf.report.table import comparison_table, fixed, seeds_table
from flowclf.runs import Run
from flowclf.settings import DataFacts
from flowclf.support.atomic_files import write_json, write_yaml
from flowclf.support.errors import UserError

SHAPE = (1, 8, 8)
HOSTILE = '<script>alert("x")</script>'
Nested = dict[str, Any]


def make_run(
    folder: Path,
    system: str = "ib-inn",
    *,
    dataset: str = "digits",
    seed: int = 0,
    beta: float | None = None,
    overrides: Nested | None = None,
    names: tuple[str, ...] = ("0", "1", "2"),
    evaluation: Nested | None = None,
    **test: Any,
) -> Path:
    """Write a run folder as training leaves it, without training."""
    config = make_config(system, dataset, SHAPE, seed=seed, beta=beta, overrides=[overrides or {}])
    run = Run(folder)
    run.write_config(config, DataFacts(shape=SHAPE, levels=17, class_names=names, samples=100))
    measured = {"accuracy": 0.9, "ece": 0.01, "bits_per_dim": None} | test
    summary = {"system": system, "data": dataset, "seed": seed, "seconds": 2.5}
    run.write_summary(summary | {"parameters": 1234, "device": "cpu", "test": measured})
    if evaluation:
        write_json(run.evaluation_file, evaluation)
    return folder


def draw(run: Path, name: str, size: int) -> None:
    """Write a picture that does not compress."""
    (run / "figures").mkdir(exist_ok=True)
    (run / "figures" / f"{name}.png").write_bytes(noise(size))


@cache
def noise(size: int) -> bytes:
    """Return a .png file of random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Page(HTMLParser):
    """Parsed page: tags, attributes, text and the cells of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.in_cell = False
        self.feed(text)
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def line(self) -> str:
        return " ".join(self.text.split())


def page_of(folder: Path) -> Page:
    return Page(render(collect([folder])))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Runs at three β̃; the middle one classifies best, the first has the fewest bits/dim."""
    for beta, accuracy, bits in ((0.1, 0.9, 2.0), (1, 0.98, 2.5), (10, 0.95, None)):
        found = {"accuracy": accuracy, "bits_per_dim": bits, "ece": 0.02}
        ends = {"accuracy_low": accuracy - 0.04, "accuracy_high": accuracy + 0.01}
        make_run(tmp_path / f"b={beta}", beta=beta, **found, **ends)
    return tmp_path


# What it says.


def test_the_summary_names_the_best_in_sentences(sweep: Path) -> None:
    text = page_of(sweep).line
    assert "3 runs of ib-inn on digits (1 × 8 × 8 images, 3 classes, 100 training samples)" in text
    assert "seed 0, β̃ from 0.1 to 10." in text
    assert "lowest error 2.00 % b=1 95 % interval 1.00 to 6.00 %; 1 other run lies within" in text
    assert "fewest bits/dim 2.000 b=0.1" in text


def test_the_comparison_has_a_row_a_run_with_intervals_and_dashes(sweep: Path) -> None:
    found = collect([sweep])
    table = comparison_table(make_rows(found, ()), (), {})
    titles = [column.title for column in table.columns]
    assert titles[:8] == [
        "run", "system", "data", "seed", "β̃",
        "accuracy in %", "ECE (15 bins) in %", "bits/dim",
    ]  # fmt: skip
    assert [row[0].text for row in table.rows] == ["b=0.1", "b=1", "b=10"]
    accuracy = table.rows[1][titles.index("accuracy in %")]
    assert (accuracy.text, accuracy.note, accuracy.best) == ("98.00", "94.00 to 99.00", True)
    missing = table.rows[2][titles.index("bits/dim")]
    assert (missing.text, missing.sort, missing.best) == ("–", None, False)


def test_the_best_are_marked_where_there_is_something_to_choose(tmp_path: Path) -> None:
    for name, accuracy in (("a", 0.9), ("b", 0.9), ("c", 0.8)):
        make_run(tmp_path / name, accuracy=accuracy, ece=0.1)
    make_run(tmp_path / "d", dataset="mnist", accuracy=0.99)
    rows = make_rows(collect([tmp_path]), ())
    assert {row.values["run"] for row in best_rows(rows, "accuracy")} == {"a", "b"}
    assert best_rows(rows, "ece") == set()
    assert best_rows(rows, "seconds") == set()


def test_what_an_evaluation_adds_becomes_columns(tmp_path: Path) -> None:
    more = {"brier": 0.2, "density": "exact", "nothing": None, "commit": "abc", "rows": [1]}
    make_run(tmp_path / "a", evaluation=more)
    make_run(tmp_path / "b", "ce")
    page = page_of(tmp_path)
    head, second, first = page.rows[:3]
    assert first[head.index("Brier score ↓")] == "0.2000"
    assert second[head.index("Brier score ↓")] == "–"
    assert first[head.index("density")] == "exact"
    assert not {"nothing", "rows"} & set(head)


def test_only_what_varies_within_a_system_is_a_column(tmp_path: Path) -> None:
    for lr in (0.1, 0.2):
        make_run(tmp_path / f"lr{lr}", overrides={"train": {"lr": lr}}, beta=lr)
    make_run(tmp_path / "other", "ce")
    assert varied_settings(collect([tmp_path]).entries) == ["train.lr"]


def test_what_has_no_end_sorts_as_a_number_too(tmp_path: Path) -> None:
    for beta in (1, inf):
        make_run(tmp_path / f"b={beta}", beta=beta)
    table = comparison_table(make_rows(collect([tmp_path]), ()), (), {})
    assert [(row[4].text, row[4].sort) for row in table.rows] == [("1", "1.0"), ("∞", "Infinity")]


def test_seeds_are_averaged(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.8, 0.9)):
        make_run(tmp_path / f"run-{seed}", seed=seed, accuracy=accuracy)
    table = seeds_table(make_rows(collect([tmp_path]), ()), ())
    assert table is not None
    cells = dict(zip([column.title for column in table.columns], table.rows[0], strict=True))
    assert cells["seeds"].text == "2"
    assert (cells["accuracy in %"].text, cells["accuracy in %"].note) == ("85.00", "± 5.00")


def test_runs_without_a_result_are_named_and_those_a_sweep_waits_for(sweep: Path) -> None:
    Run(make_run(sweep / "begun")).summary_file.unlink()
    text = page_of(sweep).line
    assert "1 run has no result, and is left out begun: not finished" in text
    shutil.rmtree(sweep / "begun")
    settings = make_config("ib-inn", "digits", SHAPE).to_dict()
    points = [{"name": "later", "varied": {}, "config": settings}]
    write_yaml(sweep / "sweep.yaml", {"shape": [1, 8, 8], "data_dir": None, "points": points})
    assert [each.name for each in collect([sweep]).unfinished] == ["later"]


def test_a_study_brings_its_baselines_and_its_picture(tmp_path: Path) -> None:
    few = {"data": {"train_size": 50}}
    make_run(tmp_path / "ce-50-0", "ce", overrides=few, accuracy=0.7)
    row = {"system": "QDA", "data": "digits", "seed": 0, "train_size": 50, "accuracy": 0.8}
    lines = [",".join([*row, "ece"]), ",".join(map(str, [*row.values(), ""]))]
    (tmp_path / "results.csv").write_text("\n".join(lines), encoding="utf-8")
    Image.new("RGB", (20, 10)).save(tmp_path / "low-data.png")
    page = page_of(tmp_path)
    assert "digits, 50 training samples" not in page.text  # one task needs no heading
    assert page.rows[2][0] == "QDA"
    assert "lowest error 20.00 % QDA" in page.line
    assert any("Learning curves" in str(image["alt"]) for image in page.of("img"))


def test_curves_are_drawn_where_the_trade_off_varies(sweep: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(sweep / "trade-off.png")
    page = page_of(sweep)
    assert page.of("img") == []
    labels = [svg["aria-label"] for svg in page.of("svg") if "aria-label" in svg]
    assert labels == [
        "accuracy in % ↑ against β̃",
        "ECE (15 bins) in % ↓ against β̃",
        "bits/dim ↓ against β̃",
    ]
    assert "a dot a run" in page.line
    dots = [a for a in page.of("a") if "data-run" in a]
    assert len(dots) == 3 + 3 + 2  # one has no bits/dim
    assert dots[0] == {
        "href": "#run-1", "data-run": "run-1", "aria-label": "b=0.1: accuracy 90.00 %",
    }  # fmt: skip
    assert page_of(sweep / "b=1").of("circle") == []


def test_lines_are_means_over_the_seeds_and_baselines_are_level(tmp_path: Path) -> None:
    for seed, beta in product((0, 1), (0, 1, 10, inf)):
        make_run(tmp_path / f"{seed}-{beta}", seed=seed, beta=beta, accuracy=0.5 + 0.2 * seed)
    found = with_baselines(collect([tmp_path]), lambda _: [{"system": "QDA", "accuracy": 0.8}])
    rows = make_rows(found, ())
    assert [row.values["run"] for row in rows if row.entry is None] == ["QDA"]
    labels = {row: row.values["system"] for row in rows}
    accuracy, _ = trade_off_charts(rows, labels, {"0-1": "run-3"})
    flow, qda = accuracy.lines
    assert [text for _, text in accuracy.x_ticks] == ["0", "1", "10", "∞"]
    assert len(flow.dots) == 8
    heights = {dot.y for dot in flow.dots}
    assert len(heights) == 2
    (start, end) = (tuple(map(float, p.split(","))) for p in flow.path[1:].split("L"))
    assert start[1] == end[1] == pytest.approx(sum(heights) / 2, abs=0.1)
    assert {dot.run for dot in flow.dots} == {"", "run-3"}
    assert qda.dashed
    assert not qda.dots
    (y,) = {float(p.split(",")[1]) for p in qda.path[1:].split("L")}
    assert y < min(heights)  # higher up
    again = with_baselines(found, lambda _: [{"system": "QDA"}])
    assert again.baselines == found.baselines


def test_the_history_of_a_training_is_drawn_in_any_of_its_forms(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run = Run(make_run(tmp_path / name))
        for epoch in (1, 2, 3):
            run.append_metrics({"step": 9, "epoch": epoch, "validation": {"accuracy": 0.3 * epoch}})
            run.append_metrics(
                {"kind": "train", "step": 9, "epoch": epoch, "accuracy": 0.9, "note": "x"}
            )
        run.append_metrics({"step": 9, "epoch": 3, "test": {"accuracy": 0.1}})
    found = collect([tmp_path])
    (chart,) = learning_charts(found.entries, {"a": "run-1", "b": "run-2"})
    assert chart.title == "accuracy in % ↑"
    assert [text for _, text in chart.x_ticks] == ["1", "2", "3"]
    looks = [(line.label, line.dashed, line.run) for line in chart.lines]
    assert looks[:2] == [("a, validation", False, "run-1"), ("a, train", True, "run-1")]
    up = [float(p.split(",")[1]) for p in chart.lines[0].path[1:].split("L")]
    assert up == sorted(up, reverse=True)
    assert len(up) == 3
    page = page_of(tmp_path)
    assert {a["href"] for a in page.of("a") if a.get("aria-label", "").endswith("train")} == {
        "#run-1", "#run-2",
    }  # fmt: skip


def test_samples_stand_open_with_their_dark_twins_and_plots_are_for_the_page_to_turn(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path / "run")
    for name in ("samples", "latent", "dark/samples"):
        file = run / "figures" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(file)
    page = page_of(tmp_path)
    (source,) = page.of("source")
    assert source["media"] == "(prefers-color-scheme: dark)"
    tags = [tag for tag, _ in page.tags]
    assert tags.index("source") < tags.index("details")
    classes = [str(figure["class"]).split() for figure in page.of("figure")]
    assert classes == [["twin"], ["plot"]]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for parent in ("x", "y"):
        make_run(tmp_path / parent / "run")
    assert [entry.name for entry in collect([tmp_path]).entries] == ["x/run", "y/run"]
    assert len(collect([tmp_path, tmp_path / "x" / "run"]).entries) == 2


# The commands.

CONFIGS = {
    "as the preset": ("ib-inn", 0, {}),
    "beta and seed": ("ib-inn", 3, {"objective": {"beta": 0.464159}}),
    "no end": ("ib-inn", 0, {"objective": {"beta": inf}}),
    "another kind": ("ib-inn", 0, {"network": {"kind": "mlp", "blocks": 2, "hidden": [32]}}),
    "another kind as it is": ("ce", 0, {"network": {"kind": "wide-resnet"}}),
    "lists and nothing": ("ce", 0, {"network": {"width": [8, 8]}, "latent": 3}),
    "small numbers and words": ("gm", 1, {"train": {"lr": 1e-5, "schedule": "cosine"}}),
    "two kinds": ("vae", 0, {"decoder": {"kind": "mlp"}, "network": {"kind": "mlp"}}),
    "text that is a number": ("ce", 0, {"data": {"text": "1,2", "label": "0"}}),
    "none again": ("ib-inn", 0, {"train": {"threads": None, "milestones": [0.5, 0.75]}}),
}  # fmt: skip


def parsed(text: str, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Return the configuration that a command line of `flowclf train` asks for."""
    found = []

    def keep(config: RunConfig, *_: Any) -> None:
        found.append(config)
        raise UserError("enough")

    monkeypatch.setattr(train_verb, "_train", keep)
    program, *arguments = shlex.split(text)
    assert program == "flowclf"
    assert command(arguments) == 2
    return found[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_command_makes_the_same_configuration(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, seed, overrides = CONFIGS[name]
    make_run(tmp_path / "run", system, seed=seed, overrides=overrides)
    wanted = Run(tmp_path / "run").read_config()[0]
    text = render(collect([tmp_path]))
    shown = re.search(r"<code>(flowclf train .*?)</code>", text)
    assert shown
    line = Page(shown[1]).text
    monkeypatch.chdir(tmp_path)
    assert parsed(line, monkeypatch) == wanted
    if name == "as the preset":
        assert line == "flowclf train ib-inn --data digits"


def test_a_preset_is_named_if_it_is_not_that_of_the_data() -> None:
    config = make_config("ib-inn", "digits", SHAPE, preset="image")
    assert train_command(config, SHAPE, "digits").endswith(" --preset image")


def test_settings_are_flattened_and_compared() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": []}}, "e": {}}) == {"a.b": 1, "a.c.d": [], "e": {}}
    assert nested({"a.b": 1, "a.c": 2}) == {"a": {"b": 1, "c": 2}}
    assert differing([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}]) == ["b", "c"]
    for value in (None, True, 1e-5, inf, "0", "1e-3", "a b", [1, [2]], "null", "#"):
        assert yaml.safe_load(written(value)) == value
        assert "\n" not in written(value)


def test_numbers_of_a_column_have_equally_many_decimals() -> None:
    assert [fixed([0.5, 0.25])(x) for x in (0.5, -0.25)] == ["0.5000", "−0.2500"]
    assert fixed([1000, 20], 0)(1000) == "1,000"
    assert fixed([98.5])(98.5) == "98.50"


# That it is safe, and the same anywhere.


def test_what_comes_from_files_is_escaped(tmp_path: Path) -> None:
    # A folder's name cannot have a slash.
    name = HOSTILE.replace("/", "")
    ood = [{"set": HOSTILE, "score": HOSTILE, "auroc": 0.5}]
    found = {"accuracy_per_class": [0.5] * 3, "density": HOSTILE, HOSTILE: 1.0, "ood": ood}
    names, data = (HOSTILE, '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}"), f"./{HOSTILE}"
    run = make_run(tmp_path / name, dataset=data, names=names, evaluation=found, beta=2)
    make_run(tmp_path / "b'\"$\\alpha", beta=3, dataset=data)
    draw(run, f"x{name}", 10)
    page = page_of(tmp_path)
    assert len(page.of("script")) == 1
    assert HOSTILE in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert not any(name.startswith("on") for _, found in page.tags for name in found)
    assert all(str(image["src"]).startswith("data:image/") for image in page.of("img"))


def test_the_policy_lets_nothing_load_and_the_same_runs_make_the_same_page(sweep: Path) -> None:
    text = render(collect([sweep]))
    assert text == render(collect([sweep]))
    page = Page(text)
    policy = next(m for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in str(policy["content"])
    assert not re.search(r"(src|href|url)\W{1,2}(https?:|//)", text)
    assert not any("style" in found for _, found in page.tags)


def test_no_path_of_this_machine_is_in_the_page(tmp_path: Path) -> None:
    make_run(tmp_path / "run", dataset=str(tmp_path / "mnist"))
    page = page_of(tmp_path)
    assert str(tmp_path) not in page.text
    assert "--data ./mnist" in page.text


def test_headings_captions_and_alternatives_are_there(sweep: Path) -> None:
    draw(sweep / "b=1", "latent", 40)
    page = page_of(sweep)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("h1") == 1
    assert tags.count("caption") == tags.count("table")
    assert tags.count("figcaption") == tags.count("figure") > tags.count("img")
    assert all(image["alt"] for image in page.of("img"))
    assert all(heading["scope"] in ("row", "col") for heading in page.of("th"))
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    links = [str(a["href"]) for a in page.of("a")]
    assert {link for link in links if link.startswith("#")} <= {f"#{i}" for i in ids}


# That it is small.


def test_a_large_sweep_stays_below_five_megabytes(tmp_path: Path) -> None:
    for k in range(24):
        beta = 0.1 * 1.3**k
        run = make_run(tmp_path / f"run-{k:02}", beta=beta, accuracy=0.9 + 0.002 * k)
        for name in ("latent", "samples", "reliability", "roc-entropy"):
            draw(run, name, 200)
    written = write_report([tmp_path], tmp_path / "report.html")
    assert written["runs"] == 24
    assert written["bytes"] == (tmp_path / "report.html").stat().st_size < 5e6
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert "Pictures are shown of 8 runs" in page.text
    shown = {str(i["alt"]).split(":")[0] for i in page.of("img") if "run-" in str(i["alt"])}
    assert "run-23" in shown
    assert len(shown) == 8


def test_pictures_that_are_too_large_are_left_out(sweep: Path) -> None:
    for run, name in product(("b=1", "b=10"), "abcd"):
        draw(sweep / run, name, 900)
    assert len(render(collect([sweep]))) < 5e6
    for run in ("b=1", "b=10"):
        shutil.rmtree(sweep / run / "figures")
    for k in range(4):
        (sweep / f"{k}.png").write_bytes(noise(1000))
    text = render(collect([sweep]))
    assert len(text) < 3e6
    assert "more are left in their folder" in text


def test_pictures_shrink(tmp_path: Path) -> None:
    plot = Image.new("RGBA", (2400, 1000), (0, 0, 0, 0))
    plot.paste((255, 0, 0, 255), (100, 100, 300, 300))
    plot.save(tmp_path / "plot.png")
    found = embed_file(tmp_path / "plot.png")
    assert (found.width, found.height) == (1200, 500)
    data = base64.b64decode(found.uri.partition(",")[2])
    with Image.open(io.BytesIO(data)) as image:
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


# Mistakes.


def test_a_folder_without_runs_and_a_page_that_is_none_are_mistakes(
    tmp_path: Path, sweep: Path, refused: Callable[..., str]
) -> None:
    empty, out = tmp_path / "empty", tmp_path / "r.html"
    empty.mkdir()
    assert "expected folders of runs" in refused("report", empty, "--out", out)
    assert "which is not a folder" in refused("report", tmp_path / "nowhere", "--out", out)
    Run(make_run(empty / "begun")).summary_file.unlink()
    assert "1 that have not" in refused("report", empty, "--out", out)
    assert "ending in .html" in refused("report", sweep, "--out", tmp_path / "report.pdf")
    assert not [*tmp_path.glob("r*.*")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("b=1/config.yaml", "{", "b=1/config.yaml.*damaged"),
        ("b=1/summary.json", "{", "b=1/summary.json.*damaged"),
        ("b=1/evaluation.json", "{", "b=1/evaluation.json.*damaged"),
        ("b=1/figures/latent.png", "{", r"latent\.png: expected a readable PNG"),
        ("sweep.yaml", "{", r"sweep\.yaml is damaged"),
        ("b=1/summary.json", '{"test": 3}', "has no 'test'"),
        ("b=1/config.yaml", None, r"config\.yaml: unknown setting 'later'"),
    ],
)
def test_a_damaged_file_is_named(
    name: str, text: str | None, message: str, sweep: Path, refused: Callable[..., str]
) -> None:
    file, out = sweep / name, sweep / "r.html"
    file.parent.mkdir(exist_ok=True)
    file.write_text(file.read_text() + "later: 1\n" if text is None else text, "utf-8")
    line = refused("report", sweep, "--out", out)
    assert re.search(message, line), line
    assert not out.exists()


def test_json_says_where_the_page_is(sweep: Path, document: Callable[..., Any]) -> None:
    out = sweep / "new" / "report.html"
    found = document("report", sweep, "--out", out)
    assert found == {"report": str(out), "runs": 3, "bytes": out.stat().st_size}
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
