"""Seeds that depend on everything they name; files that appear whole or not at all; locks."""

import json
import os
import time
from errno import EACCES, EINVAL
from functools import partial
from itertools import product
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import pytest
import torch
from forks import held

from flowclf.support.atomic_files import (
    FolderInUse,
    locked,
    remove_parts,
    write_json,
    write_text,
    write_whole,
    write_yaml,
)
from flowclf.support.seeding import derive_seed, generator_for, private_rng

CPU = torch.device("cpu")


def test_a_seed_depends_on_every_argument() -> None:
    """Each stream has positions of one length, so 1 and (1, 0) need not differ."""
    arguments = product((0, 1), ("noise", "order"), (0, 1, 2), (0, 1))
    seeds = [derive_seed(*each) for each in arguments]
    assert len(set(seeds)) == 24
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(3, "noise", 5, 7) == derive_seed(3, "noise", 5, 7)


def test_a_generator_is_fresh_each_time() -> None:
    first, again, other = (generator_for(0, "noise", step) for step in (1, 1, 2))
    draw = torch.rand(3, generator=first)
    assert torch.equal(draw, torch.rand(3, generator=again))
    assert not torch.equal(draw, torch.rand(3, generator=other))


def test_private_random_numbers_are_reproducible_and_leave_no_trace_even_in_errors() -> None:
    before = torch.get_rng_state()
    draws = []
    for seed in (1, 1, 2):
        with private_rng(seed, CPU):
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(RuntimeError, match="after tensor"), private_rng(1, CPU):
        raise RuntimeError(f"after {torch.rand(3)}")
    assert torch.equal(torch.get_rng_state(), before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_whole_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    for text in ("größer", "anew"):
        write_text(path, text)
        assert path.read_text("utf-8") == text
    assert names(path.parent) == ["b.txt"]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    (path := tmp_path / "model.png").write_text("old")

    def write(part: Path) -> None:
        part.write_text("new")
        assert part.parent == path.parent
        assert part.suffix == ".png"
        assert path.read_text() == "old"

    write_whole(path, write)
    assert path.read_text() == "new"
    assert names(tmp_path) == ["model.png"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (path := tmp_path / "model.bin").write_text("old")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match=r"^cannot write .*model\.bin: no space left; what was there"):
        write_whole(path, fail)
    with pytest.raises(OSError, match=r"^cannot write .*b\.txt: File exists; what was there"):
        write_text(path / "b.txt", "b")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["model.bin"]


def test_the_file_that_is_replaced_may_be_kept(tmp_path: Path) -> None:
    path, previous = tmp_path / "new.bin", tmp_path / "old.bin"
    for content in (b"1", b"2", b"3"):
        write_whole(path, partial(Path.write_bytes, data=content), previous)
    assert (path.read_bytes(), previous.read_bytes()) == (b"3", b"2")
    assert names(tmp_path) == ["new.bin", "old.bin"]


def test_the_file_is_flushed_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, fsync, replace = [], os.fsync, os.replace

    def flush(descriptor: int) -> None:
        calls.append("folder" if S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        calls.append(target.name)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    write_text(tmp_path / "a.txt", "a")
    assert calls == ["file", "a.txt", "folder"]


@pytest.mark.parametrize(("call", "code"), [("open", EACCES), ("fsync", EINVAL)])
def test_folders_that_cannot_be_flushed_are_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    def refuse_folders(which: Any, *rest: Any) -> Any:
        if os.path.isdir(which) if call == "open" else S_ISDIR(os.fstat(which).st_mode):
            raise OSError(code, os.strerror(code))
        return known(which, *rest)

    known = getattr(os, call)
    monkeypatch.setattr(os, call, refuse_folders)
    write_text(tmp_path / "a.txt", "a")
    assert (tmp_path / "a.txt").read_text() == "a"


def test_parts_of_one_file_are_removed_and_others_left(tmp_path: Path) -> None:
    for name in (".a.1.part.txt", ".a.22.part.txt", ".ab.1.part.txt", ".a.1.part.bin", "a.txt"):
        (tmp_path / name).touch()
    remove_parts(tmp_path / "a.txt")
    assert names(tmp_path) == [".a.1.part.bin", ".ab.1.part.txt", "a.txt"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_word_for_what_is_not_a_number(tmp_path: Path, value: float) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": [value]})
    assert json.loads(path.read_text()) == {"a": 1}
    assert names(tmp_path) == ["summary.json"]


def test_yaml_keeps_order_and_letters(tmp_path: Path) -> None:
    write_yaml(tmp_path / "c.yaml", {"z": 1, "a": "ä"})
    assert (tmp_path / "c.yaml").read_text("utf-8") == "z: 1\na: ä\n"


# Locks: a folder belongs to one process, and to nobody once that is gone.


def test_another_process_is_refused_at_once_until_the_holder_is_killed(tmp_path: Path) -> None:
    with held(tmp_path / "run"):
        start = time.perf_counter()
        refused = pytest.raises(FolderInUse, match="run is in use by anot")
        with refused, locked(tmp_path / "run"):
            pass
        assert time.perf_counter() - start < 1
    with locked(tmp_path / "run", wait=1.0):
        pass


def test_one_process_may_hold_it_twice(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path), locked(tmp_path):
            pass
