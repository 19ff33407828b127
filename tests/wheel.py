"""Build the wheel, and use it in an empty environment of each Python that is installed.

    python tests/wheel.py        (or `make wheel-test`)

The oldest of `PYTHONS` gets torch and all dependencies by constraints.txt, then trains from the
command line and in Python. torch is pinned to the build that constraints.txt names; a Python for
which it cannot be had without the packages of a GPU runs what needs none: `flowclf --help` and
`flowclf systems --help`, and all modules are compiled. The wheel's metadata pass `twine check
--strict`.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("python3.11", "python3.12", "python3.13")
# What the command line imports before torch.
LIGHT = ("typer", "rich", "pydantic", "pyyaml", "filelock")
EXAMPLE = """
import flowclf
trained = flowclf.train("ib-inn", "digits", epochs=1, verbose=False)
assert trained.model.log_posterior(trained.test.x[:3]).shape == (3, 10)
assert "site-packages" in flowclf.__file__
"""


def run(*command: object, where: Path) -> str:
    """Run a command outside of the checkout; on failure show what it printed and end."""
    found = subprocess.run([*map(str, command)], cwd=where, capture_output=True, text=True)
    if found.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{found.stdout}{found.stderr}")
    return found.stdout


def cover(python: str, wheel: Path, folder: Path) -> str:
    """Return what ran with one Python."""
    run(python, "-m", "venv", folder, where=ROOT)
    bin_ = folder / "bin"
    pip = (bin_ / "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt")
    version = run(bin_ / "python", "-V", where=folder).split()[-1]
    if python == PYTHONS[0]:
        run(*pip, "torch", where=folder)
        run(*pip, wheel, where=folder)
        print(run(bin_ / "flowclf", "--version", where=folder).strip())
        out = ("--epochs", "1", "--out", "run")
        run(bin_ / "flowclf", "train", "ib-inn", "--data", "digits", *out, where=folder)
        run(bin_ / "python", "-c", EXAMPLE, where=folder)
        torch = run(bin_ / "python", "-c", "import torch; print(torch.__version__)", where=folder)
        return f"Python {version}, torch {torch.strip()}: trained by command and in Python"
    run(*pip, *LIGHT, where=folder)
    run(*pip, "--no-deps", wheel, where=folder)
    run(bin_ / "flowclf", "--help", where=folder)
    run(bin_ / "flowclf", "train", "--help", where=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    packages = (site / "flowclf", site / "couplings")
    run(bin_ / "python", "-m", "compileall", "-q", *packages, where=folder)
    return f"Python {version}, no torch: compiled, flowclf --help"


def main() -> None:
    """Build, check, and cover each Python."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        command = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder)
        run(*command, ROOT, where=folder)
        (wheel,) = folder.glob("flowclf-*.whl")
        print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB")
        with zipfile.ZipFile(wheel) as opened:
            (metadata,) = (n for n in opened.namelist() if n.endswith("METADATA"))
            broken = re.findall(r"\]\((?!https?:|#)[^)]+\)", opened.read(metadata).decode())
        if broken:
            sys.exit(f"expected absolute addresses in the long description, got {broken[:3]}")
        run(sys.executable, "-m", "venv", folder / "tools", where=folder)
        run(folder / "tools/bin/pip", "install", "--quiet", "twine", where=folder)
        print(run(folder / "tools/bin/twine", "check", "--strict", wheel, where=folder).strip())
        for python in PYTHONS:
            works = (
                shutil.which(python)
                and not subprocess.run([python, "-V"], capture_output=True, check=False).returncode
            )
            print(cover(python, wheel, folder / python) if works else f"{python}: not installed")


if __name__ == "__main__":
    main()
