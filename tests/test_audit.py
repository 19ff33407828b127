"""The audit of what is installed finds other versions, altered or missing files, bad releases."""

import runpy
import tomllib
from base64 import urlsafe_b64encode
from hashlib import sha256
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
AUDIT: dict[str, Any] = runpy.run_path(str(ROOT / ".ci" / "audit.py"))


def install(folder: Path, name: str = "Thing", version: str = "1.0") -> Distribution:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (folder / "thing.py").write_bytes(b"x = 1\n")
    digest = urlsafe_b64encode(sha256(b"x = 1\n").digest()).decode().rstrip("=")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"thing.py,sha256={digest},6\n{info.name}/RECORD,,\n")
    return Distribution.at(info)


def findings(distribution: Distribution, version: str = "1.0") -> list[str]:
    pins = {AUDIT["normal"](distribution.metadata["Name"]): version}
    return list(AUDIT["findings"](distribution, pins))


def test_what_is_as_it_was_installed_passes(tmp_path: Path) -> None:
    assert findings(install(tmp_path)) == []


@pytest.mark.parametrize("change", ["altered", "missing", "version", "unpinned", "withdrawn"])
def test_what_is_not_is_named(tmp_path: Path, change: str) -> None:
    bad = change == "withdrawn"
    one = install(tmp_path, *(("lightning", "2.6.3") if bad else ("Thing", "1.0")))
    if change == "altered":
        (tmp_path / "thing.py").write_bytes(b"x = 2\n")
    elif change == "missing":
        (tmp_path / "thing.py").unlink()
    pinned = {"version": "1.1", "withdrawn": "2.6.3"}.get(change, "1.0")
    found = list(AUDIT["findings"](one, {})) if change == "unpinned" else findings(one, pinned)
    says = {
        "altered": "thing: thing.py is not what was installed",
        "missing": "thing: thing.py is missing",
        "version": "thing 1.0: expected 1.1",
        "unpinned": "thing 1.0: expected a pin in constraints.txt",
        "withdrawn": "lightning 2.6.3: withdrawn as malicious",
    }
    assert found == [says[change]]


def test_the_lock_agrees_with_the_constraints() -> None:
    lock = (ROOT / ".ci" / "lock.txt").read_text("utf-8")
    pinned, locked = pins((ROOT / "constraints.txt").read_text("utf-8")), pins(lock)
    assert len(locked) > 90
    assert locked <= pinned
    assert lock.count("--hash=sha256:") > len(locked)


def pins(text: str) -> set[tuple[str, str]]:
    """Return names, as they are compared, and versions."""
    found = [line.removesuffix(" \\").split("==") for line in text.splitlines() if "==" in line]
    return {(AUDIT["normal"](name), version) for name, version in found}


def test_the_constraints_are_within_the_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    requirements = [
        Requirement(line) for part in (project["dependencies"], *extras) for line in part
    ]
    versions = dict(pins((ROOT / "constraints.txt").read_text("utf-8")))
    pinned = [one for one in requirements if AUDIT["normal"](one.name) in versions]
    assert len(pinned) > 30
    for one in pinned:
        assert one.specifier.contains(versions[AUDIT["normal"](one.name)]), one
