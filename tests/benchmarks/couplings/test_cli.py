"""`python -m benchmarks.couplings`: benches run, mistakes get one line, rows stay and are drawn."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks.couplings import case, cli, figure, mixture
from benchmarks.couplings.case import PEERS
from benchmarks.couplings.cli import COLUMNS, RECORDED, main, run_parts, table
from benchmarks.couplings.spline import spline_cases
from benchmarks.results import append, circumstances, read

QUICK = ["--quick", "--no-compile", "--device", "cpu"]


@pytest.mark.parametrize("bench", ["couplings", "mixture", "networks"])
def test_every_bench_runs(bench: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = RECORDED.read_bytes()
    out = tmp_path / "results.csv"
    assert main([bench, *QUICK, "--json", "--out", str(out)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(tuple(row) == COLUMNS for row in rows)
    assert {row["bench"] for row in rows} == {bench}
    assert "couplings" in {row["provider"] for row in rows}
    assert len(read(out)) == len(rows)
    assert RECORDED.read_bytes() == before


def test_a_table_and_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["mixture", *QUICK, "--no-record"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("case")
    assert "torch.distributions" in printed
    assert list(tmp_path.iterdir()) == []


WRONG = {
    "bench": (["couplers"], "couplers"),
    "option": (["couplings", "--fast"], "--fast"),
    "device": (["couplings", "--device", "tpu"], "tpu"),
    "no CUDA": (["couplings", "--device", "cuda"], "--device cpu"),
    "no GPU": (["gpu"], "no CUDA"),
    "threads": (["couplings", "--threads", "0"], "--threads"),
    "seconds": (["couplings", "--seconds", "-1"], "--seconds"),
    "folder": (["couplings", "--out", "nowhere/a.csv"], "nowhere"),
    "columns": (["couplings", "--out", "other.csv"], "other columns"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_input_gets_one_line(
    mistake: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.csv").write_text("a,b\n1,2\n")
    if mistake in ("no CUDA", "no GPU") and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    arguments, word = WRONG[mistake]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert word in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_peer_that_is_missing_is_left_out_with_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_zuko(name: str) -> object:
        return None if name == "zuko" else find_spec(name)

    monkeypatch.setattr(case, "find_spec", without_zuko)
    monkeypatch.setitem(cli.BENCHES, "couplings", (spline_cases,))
    assert main(["couplings", *QUICK, "--json", "--no-record"]) == 0
    captured = capsys.readouterr()
    providers = {row["provider"] for row in json.loads(captured.out)}
    assert "zuko" not in providers
    assert "nflows" in providers
    assert captured.err.count("zuko is not installed, its rows are left out") == 1


def test_a_provider_that_disagrees_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mixture, "log", lambda _: 0.0)  # the broadcast formula without its 2π
    assert main(["mixture", *QUICK, "--no-record"]) == 1
    captured = capsys.readouterr()
    assert "broadcast and couplings differ in output 0" in captured.err
    assert captured.out == ""


def test_as_a_module_it_sets_its_own_environment(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.couplings", "mixture", *QUICK]
    command += ["--no-record", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)[0]["provider"] == "couplings"
    assert "profiler" not in run.stderr


def test_one_part_that_fails_does_not_stop_the_next(capfd: pytest.CaptureFixture[str]) -> None:
    parts = {
        "first": (("-c", "raise SystemExit(3)"), 60),
        "second": (("-c", "import time; time.sleep(60)"), 1),
        "third": (("-c", "print('here')"), 60),
    }
    assert run_parts([], parts) == 1
    captured = capfd.readouterr()
    assert "here" in captured.out
    lines = captured.err.splitlines()
    outcomes = "first: failed with status 3", "second: stopped after 1 s", "third: done"
    assert lines == [f"bench: {outcome}" for outcome in outcomes]
    assert run_parts([], {"third": parts["third"]}) == 0


MEASURED = {
    "bench": "couplings", "case": "affine coupling", "shape": "2x6", "dtype": "float32",
    "pass": "forward+backward", "median_ms": 1.5, "p20_ms": 1.0, "p80_ms": 2.0, "peak_mb": 120.0,
    "memory_ratio": None, "roofline": 0.5, "compile_s": None,
}  # fmt: skip


def rows() -> list[dict[str, object]]:
    values = circumstances("torch", *PEERS, device="CPU", threads=1) | MEASURED
    found = []
    for each in (("couplings", False, 1.0), ("FrEIA", False, 2.0), ("FrEIA", True, 0.5)):
        row = values | dict(zip(("provider", "compiled", "ratio"), each, strict=True))
        found.append({column: row[column] for column in COLUMNS})
    return found


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
