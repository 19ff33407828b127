"""The CSV grows, keeps its columns, and is drawn."""

from pathlib import Path

import pytest
import torch

from benchmarks.couplings import figure
from benchmarks.couplings.case import PEERS
from benchmarks.couplings.cli import COLUMNS, table
from benchmarks.results import append, circumstances, read

MEASURED = {
    "bench": "couplings", "case": "affine coupling", "shape": "2x6", "dtype": "float32",
    "pass": "forward+backward", "median_ms": 1.5, "p20_ms": 1.0, "p80_ms": 2.0, "peak_mb": 120.0,
    "memory_ratio": None, "roofline": 0.5, "compile_s": None,
}  # fmt: skip


def rows() -> list[dict[str, object]]:
    values = circumstances("torch", *PEERS, device="CPU", threads=1) | MEASURED
    providers = [("couplings", False, 1.0), ("FrEIA", False, 2.0), ("FrEIA", True, 0.5)]
    found = [
        values | {"provider": name, "compiled": compiled, "ratio": ratio}
        for name, compiled, ratio in providers
    ]
    return [{column: row[column] for column in COLUMNS} for row in found]


def test_rows_are_appended_under_one_header(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    assert read(path) == []
    append(path, rows())
    append(path, rows()[:1])
    append(None, rows())
    recorded = read(path)
    assert [row["provider"] for row in recorded] == ["couplings", "FrEIA", "FrEIA", "couplings"]
    assert tuple(recorded[0]) == COLUMNS
    assert recorded[0]["torch"] == torch.__version__
    assert recorded[0]["FrEIA"] == "0.2"
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"]


def test_other_columns_are_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="has other columns"):
        append(path, rows())
    assert path.read_text() == "a,b\n1,2\n"


def test_the_table_has_a_line_a_row() -> None:
    header, *lines = table(rows()).splitlines()
    assert header.split()[:3] == ["case", "shape", "dtype"]
    assert len(lines) == 3
    assert "FrEIA, compiled" in lines[2]
    assert "1.5" in lines[0]


def test_the_figure_shows_the_last_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded, picture = tmp_path / "results.csv", tmp_path / "bench.png"
    append(recorded, [*rows(), *rows()])
    latest = figure.latest(read(recorded), None, "forward+backward", "float32")
    assert [figure.label(row) for row in latest] == ["couplings", "FrEIA", "FrEIA, compiled"]
    assert figure.main(["--csv", str(recorded), "--out", str(picture)]) == 0
    assert picture.stat().st_size > 1000
    assert figure.main(["--csv", str(recorded), "--out", str(picture), "--dtype", "int4"]) == 2
    assert "no rows of forward+backward in int4" in capsys.readouterr().err
