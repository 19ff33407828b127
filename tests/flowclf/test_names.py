"""Names of classes, data and columns are text, wherever they are shown."""

import ast
import csv
import io
import sys
from pathlib import Path

import pytest
import torch

import flowclf
from flowclf.cli.app import _open_streams, run
from flowclf.cli.output import print_table
from flowclf.data import Dataset, Split
from flowclf.data.dataset import validate
from flowclf.figures.evaluation import confusion_figure
from flowclf.figures.run import run_figures
from flowclf.figures.style import new_figure
from flowclf.settings import ModelInfo
from flowclf.sharing.card import model_card
from flowclf.support.atomic_files import csv_text, tell
from flowclf.support.errors import UserError

HOSTILE = (
    r"$5_{ to $10", r"\frac{", r"$\frac{$", "[/bold]", "[red]cat", "<script>alert(1)</script>",
    '=HYPERLINK("x")', "a|b`c`", "![x](y)", ":smile:", "$$", r"a\$b",
)  # fmt: skip


def hostile_data(tmp_path: Path) -> Dataset:
    """Images of two grey levels in classes of hostile names."""
    y = torch.arange(240) % len(HOSTILE)
    x = torch.randint(0, 2, (240, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    split = Split(x.to(torch.uint8), y)
    return validate(Dataset("=[/x]<b>.npz", split, split.take(slice(48)), HOSTILE, levels=2))


def test_every_figure_of_a_run_is_drawn(tmp_path: Path) -> None:
    data = hostile_data(tmp_path)
    model = flowclf.build("ib-inn", shape=(1, 8, 8), classes=len(HOSTILE), levels=2)
    model.fit_statistics(data.train.x, data.train.y)
    paths = run_figures(model.eval(), data.test, data, tmp_path)
    assert [path.name for path in paths] == ["samples.png", "latent.png"]
    confusion_figure(torch.eye(len(HOSTILE)).long() + 1, HOSTILE).savefig(io.BytesIO())


def test_letters_of_a_name_stay_and_our_formulas_are_formulas() -> None:
    figure = new_figure(3, 3)
    axes = figure.subplots()
    axes.set_xticks([0, 1], labels=["$5_{ to $10", r"$\tilde{\beta}$ = 1"])
    axes.set_yscale("log")
    axes.set_ylim(1e-3, 1)
    axes.set_title(r"$L_X$ of $\frac{")
    figure.savefig(io.BytesIO())
    found = {text.get_text(): text.get_parse_math() for text in figure.findobj() if
             hasattr(text, "get_parse_math")}  # fmt: skip
    assert not found["$5_{ to $10"]
    assert not found[r"$L_X$ of $\frac{"]
    assert found[r"$\tilde{\beta}$ = 1"]
    assert found[r"$\mathdefault{10^{-2}}$"]


def test_tables_show_every_letter(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("[/x] \x1b[2J", ["name"], [[name] for name in (*HOSTILE, "\x1b[31m", "a\u202eb")])
    shown = capsys.readouterr().out
    assert all(name in shown for name in HOSTILE)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert r"\u202e" in shown


def test_lines_do_not_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    tell("note: \x1b[2J\u202e\nand a second line")
    assert capsys.readouterr().err == "note: \\x1b[2J\\u202e\nand a second line\n"


def test_no_cell_of_a_table_is_a_formula() -> None:
    names = ['=HYPERLINK("x")', "+1", "-1+2", "@SUM(A1)", "\t=1", "plain", "a=b"]
    text = csv_text(["name", "value"], [{"name": name, "value": -1.5} for name in names])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in rows] == [*(f"'{name}" for name in names[:5]), *names[5:]]
    assert {row["value"] for row in rows} == {"-1.5"}


def test_the_card_shows_names_and_its_snippet_has_one_string() -> None:
    info = ModelInfo(system="ib-inn", shape=(4,), class_names=HOSTILE, data="<img src=x>\n# x")
    name = 'x")\n```\nimport os; os.system("y'
    card = model_card(info, {}, 1, ("log_prob",), name)
    body = card.split("---\n", 2)[2]
    assert "<script" not in body
    assert "<img" not in body
    assert "![x](y)" not in body
    code = body.split("```python\n")[1].split("\n```")[0]
    # One statement more than the import would be somebody's own.
    calls = [line for line in code.splitlines() if line and not line.startswith("#")]
    assert calls[0] == "import flowclf"
    assert calls[1].startswith("model = flowclf.load(")
    assert len(calls) == 3
    (argument,) = ast.parse(calls[1]).body[0].value.args  # type: ignore[attr-defined]
    assert argument.value == name


@pytest.mark.parametrize("name", ["a\u202eb", "a\nb", "\ud800", "a\x1b[2Jb"])
def test_names_that_cannot_be_shown_are_refused(name: str) -> None:
    split = Split(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(UserError, match="expected a class name of printable text"):
        validate(Dataset("x", split, split, ("a", name)))


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "cp932", "cp1252", "koi8-r"])
def test_any_terminal_can_be_printed_to(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(file, encoding=encoding))
    _open_streams()
    print("1 – 2 β̃ ≤ “x”")
    print_table("β̃", ["–", "β̃ – Δ"], [["größer", "≤ 日本"]])
    tell("β̃ – 日本")
    sys.stdout.flush()


def test_closed_streams_are_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    _open_streams()
    assert run(["systems"]) == 0
    for stream in (sys.stdout, sys.stderr):
        stream.close()
