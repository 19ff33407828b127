"""Settings and results of strangers: refused in one line where they are damaged."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from flowclf.cli.app import run as command
from flowclf.config import make_config, parse_assignments, read_settings
from flowclf.many import parse_grid, read_plan, states, sweep_rows
from flowclf.many.table import recorded_rows
from flowclf.report import collect
from flowclf.report.pictures import embed_file
from flowclf.runs import Run
from flowclf.settings import DataFacts
from flowclf.support import parse
from flowclf.support.atomic_files import write_json, write_yaml
from flowclf.support.errors import UserError
from flowclf.support.parse import parse_json, parse_yaml, read_json, read_yaml, yaml_text

NINE = [(f"a{i}: &a{i}", ", ".join([f"*a{i - 1}"] * 9)) for i in range(1, 12)]
LAUGHS = "a0: &a0 [1]\n" + "".join(f"{name} [{nine}]\n" for name, nine in NINE)
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"{name} {{<<: [{nine}]}}\n" for name, nine in NINE)


def refused(message: str, read: Callable[..., object], *given: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(*given)
    assert str(caught.value).isprintable()


BAD_YAML = {
    "nothing": ("", "got NoneType"),
    "list": ("- 1", "got list"),
    "open bracket": ("a: [", "got while parsing"),
    "tag": ("a: !!python/object/apply:os.getcwd []", "got could not determine a constructor"),
    "no integer": ("a: !!int ''", "got invalid literal for int"),
    "a key twice": ("a: 1\na: 2", "got the key 'a' twice"),
    "no truth": ("a: !!bool perhaps", "got 'perhaps'"),
    "aliases of aliases": (LAUGHS, "nested too deep"),
    "merges of merges": (MERGES, "nested too deep"),
    "itself": ("a: &a [*a]", "nested too deep"),
    "deep": ("a: " + "[" * 60 + "]" * 60, "nested too deep"),
    "deeper": ("a: " + "[" * 1000 + "]" * 1000, "nested too deep"),
    "long integer": (f"a: 0x{'f' * 50_000}", "got an integer beyond 64 bits"),
    "control character": ("a: \0", "special characters are not allowed"),
}


@pytest.mark.parametrize("case", BAD_YAML)
def test_damaged_yaml(tmp_path: Path, case: str) -> None:
    text, message = BAD_YAML[case]
    (tmp_path / "x.yaml").write_text(text)
    expected = f"x.yaml is damaged: expected a YAML mapping, got .*{message.removeprefix('got ')}"
    refused(expected, read_yaml, tmp_path / "x.yaml")


def test_aliases_and_merges_in_measure_are_read() -> None:
    found = parse_yaml("a: &a {k: [1, 2]}\nb: {<<: *a, c: *a}")
    assert found == {"a": {"k": [1, 2]}, "b": {"k": [1, 2], "c": {"k": [1, 2]}}}


@pytest.mark.parametrize("text", ["a=!!int x", "a=[", "a=" + "[" * 400])
def test_values_of_options_are_as_careful(text: str) -> None:
    refused("--set a: expected a YAML value, got", parse_assignments, [text])
    refused("expected --grid key=value,value, got", parse_grid, [text])


YAML_1_2 = {
    "010": 10, "+1": 1, "0o12": 10, "0x1F": 31, "1:30": "1:30", "1:60:60": "1:60:60", "yes": "yes",
    "on": "on", "No": "No", "true": True, "FALSE": False, "1e-3": 1e-3, "1.": 1.0, ".5": 0.5,
    "-.inf": float("-inf"), "1_000": "1_000", "2020-01-01": "2020-01-01", "~": None, "": None,
    "=": "=",
}  # fmt: skip


@pytest.mark.parametrize("text", YAML_1_2)
def test_scalars_are_those_of_yaml_1_2(text: str) -> None:
    found = parse_yaml(f"a: {text}")["a"]
    assert found == YAML_1_2[text]
    assert type(found) is type(YAML_1_2[text])


@pytest.mark.parametrize("text", [*YAML_1_2, "010.5", "0o7", "1e5", "null", "é", "a: b", "#"])
def test_text_stays_text_in_both_versions_of_yaml(text: str) -> None:
    written = yaml_text({"a": [text]})
    assert parse_yaml(written) == {"a": [text]}
    assert yaml.safe_load(written) == {"a": [text]}


def test_a_key_is_given_once() -> None:
    with pytest.raises(ValueError, match="the key 'lr' twice"):
        parse_yaml("train:\n  lr: 1\n  epochs: 2\n  lr: 2\n")
    with pytest.raises(ValueError, match="the key 'a' twice"):
        parse_json('{"b": [{"a": 1, "a": 2}]}')
    assert parse_yaml("a: &a {k: 1}\nb: {<<: *a, k: 2}\nc: *a")["b"] == {"k": 2}


BAD_JSON = {
    "nothing": ("", "Expecting value"),
    "list": ("[]", "list"),
    "half": ('{"a": 1', "Expecting ',' delimiter"),
    "NaN": ('{"a": [NaN]}', "nan"),
    "beyond double": ('{"a": 1e999}', "inf"),
    "deep": ('{"a": ' + "[" * 60 + "]" * 60 + "}", "nested too deep"),
    "deeper": ("[" * 100_000, "nested too deep"),
    "long integer": (f'{{"a": {"9" * 5000}}}', "Exceeds the limit"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_damaged_json(tmp_path: Path, case: str) -> None:
    text, message = BAD_JSON[case]
    (tmp_path / "x.json").write_text(text)
    expected = f"x.json is damaged: expected a JSON object, got .*{message}"
    refused(expected, read_json, tmp_path / "x.json")


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to(path.name)])
def test_no_files(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "x.yaml")
    for read in (read_yaml, read_json, read_settings):
        refused("cannot read .*x.yaml: ", read, tmp_path / "x.yaml")


# A sweep with one run, as it is left: nothing was trained.


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "sweep"
    config, run = make_config("ib-inn", "digits", (1, 8, 8)), Run(folder / "ib-inn-50-0")
    facts = {"shape": (1, 8, 8), "levels": 17, "class_names": tuple("0123456789"), "samples": 100}
    run.write_config(config, DataFacts(**facts))
    summary = {"system": "ib-inn", "data": "digits", "seed": 0, "seconds": 2.5, "parameters": 9}
    measured = {"accuracy": 0.5, "ece": 0.5, "bits_per_dim": 2.0, "negative_log_posterior_nats": 1}
    run.write_summary(summary | {"test": measured})
    point = {"name": run.folder.name, "varied": {"beta": 1.0}, "config": config.to_dict()}
    write_yaml(folder / "sweep.yaml", {"shape": [1, 8, 8], "data_dir": None, "points": [point]})
    run.write_failure("fire")
    return folder


def change(path: Path, **values: Any) -> None:
    document = read_yaml(path)
    for key, value in values.items():
        *sections, last = key.split("__")
        place = document
        for section in sections:
            place = place[int(section)] if isinstance(place, list) else place[section]
        place[last] = value
    (write_json if path.suffix == ".json" else write_yaml)(path, document)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "large"])
def test_only_plain_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "x.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("a: 1")
        monkeypatch.setattr(parse, "MOST_BYTES", 3)
    with pytest.raises(UserError, match="cannot read .*x.yaml: expected a plain file"):
        read_yaml(path)


@pytest.mark.parametrize("name", ["system", "dataset", "preset"])
def test_a_name_in_a_file_of_settings_is_a_text(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.yaml").write_text(f"{name}: [a]")
    with pytest.raises(UserError, match=rf"expected {name} to be a name, got \['a'\]"):
        read_settings(tmp_path / "x.yaml")


RUN = "ib-inn-50-0"
DAMAGE: dict[str, tuple[str, dict[str, Any] | str, str]] = {
    "settings without data": ("config.yaml", {"data_facts": None}, "config.yaml is damaged"),
    "shape of words": ("config.yaml", {"data_facts__shape": ["a"]}, "data_facts: shape"),
    "shape of two": ("config.yaml", {"data_facts__shape": [8, 8]}, "data_facts: shape"),
    "shape of nothing": ("config.yaml", {"data_facts__shape": [0, 8, 8]}, "data_facts: shape"),
    "levels of none": ("config.yaml", {"data_facts__levels": 0}, "data_facts: levels"),
    "classes of numbers": ("config.yaml", {"data_facts__class_names": [1, 2]}, "class_names"),
    "system of lists": ("config.yaml", {"system": [[]]}, "config.yaml is damaged"),
    "seed of words": ("config.yaml", {"seed": "x"}, "config.yaml: seed: input should be"),
    "preset of lists": ("config.yaml", {"preset": ["image"]}, "config.yaml: preset: input should"),
    "no result": ("summary.json", {"test": 3}, "summary.json is damaged: it has no 'test'"),
    "half a summary": ("summary.json", "{", "summary.json is damaged"),
    "strange evaluation": ("evaluation.json", "[]", "evaluation.json is damaged"),
    "no picture": ("figures/latent.png", "%!PS-Adobe-3.0 EPSF-3.0\n", "expected a readable PNG"),
    "failure of nothing": ("failed.json", "{}", "failed.json is damaged: expected a reason"),
    "failure of another": ("failed.json", "[1]", "failed.json is damaged: expected a JSON object"),
    "sweep of nothing": ("../sweep.yaml", {"points": [3]}, "sweep.yaml is damaged"),
    "baselines of half": ("../results.csv", "system,data,seed\nQDA\n", "results.csv is damaged"),
    "baselines of words": (
        "../results.csv", "system,data,seed,accuracy\nQDA,x,0,high\n", "results.csv is damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_folders(sweep: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, content, message = DAMAGE[case]
    path = sweep / RUN / name
    if "failure" in case:  # of a run that has no summary, beside a whole one
        shutil.copytree(sweep / RUN, sweep / "other", ignore=shutil.ignore_patterns("failed.json"))
        (sweep / RUN / "summary.json").unlink()
    if isinstance(content, str):
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    else:
        change(path, **content)
    assert command(["report", str(sweep), "--out", str(sweep / "x.html")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_whole_folder_is_read(sweep: Path) -> None:
    assert [entry.name for entry in collect([sweep]).entries] == [RUN]
    assert [state.kind for state in states(read_plan(sweep))] == ["done"]
    assert [row["accuracy"] for row in sweep_rows(read_plan(sweep))] == [0.5]
    assert list(recorded_rows(sweep)) == []  # it is not one of 50 samples


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/b", "..", "", 3])
def test_no_run_of_a_sweep_lies_elsewhere(sweep: Path, name: Any) -> None:
    change(sweep / "sweep.yaml", points__0__name=name)
    refused("sweep.yaml is damaged .*is no name of a run", read_plan, sweep)


def test_progress_metrics_and_words(sweep: Path) -> None:
    run = Run(sweep / RUN)
    run.summary_file.unlink()
    for text in ('{"step": "all"}', '{"step": 1, "steps": 0, "epoch": 0, "seconds": 1}'):
        run.progress_file.write_text(text)
        refused("progress.json is damaged: expected step and steps", states, read_plan(sweep))
    for line in ("3", "{}", '{"step": "x"}', "{"):
        run.metrics_file.write_text(f'{{"step": 1, "loss": Infinity}}\n{line}\n')
        refused("metrics.jsonl is damaged: expected a JSON ob", list, run.read_metrics())
    run.vocabulary_file.write_bytes(b"caf\xe9\n")
    refused("vocabulary.txt is damaged: expected UTF-8, got byte 0xe9", run.read_vocabulary)


@pytest.mark.parametrize("row", [{}, 3, {"seed": "x"}, {"train_size": "x"}, {"accuracy": "high"}])
def test_baselines_of_a_study(tmp_path: Path, row: Any) -> None:
    numbers = ("accuracy", "ece", "bits_per_dim", "seconds", "negative_log_posterior_nats")
    whole = {"system": "QDA", "data": "digits", "seed": 0, "train_size": 50, "commit": None}
    whole |= dict.fromkeys(numbers, 0.5)
    file = tmp_path / "baselines-50-0.json"
    file.write_text(json.dumps({"rows": [whole]}))
    assert len(list(recorded_rows(tmp_path))) == 1
    changed = whole | row if row and isinstance(row, dict) else row
    file.write_text(json.dumps({"rows": [changed]}))
    refused("baselines-50-0.json is damaged: expected", list, recorded_rows(tmp_path))


def test_pictures_that_the_report_does_not_open(tmp_path: Path) -> None:
    """Pillow would hand PostScript to an interpreter; and 80 million pixels are too many."""
    (tmp_path / "x.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    refused("x.png: expected a readable PNG", embed_file, tmp_path / "x.png")
    Image.new("1", (10_000, 8_000)).save(tmp_path / "x.png")
    refused("at most 67,108,864 pixels, got 10000×8000", embed_file, tmp_path / "x.png")
