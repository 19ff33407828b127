"""Compilation of the CPU kernels in `csrc`, once for each instruction set; needs no torch.

The build hook of the package calls it at installation, `python -m couplings build` afterwards. A
machine without a C++ compiler keeps the operators written in PyTorch.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).with_name("csrc")
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden"),
    # Loops vectorise only where no operation can set errno or trap; the order of sums stays.
    *("-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"),
)
# By the names of torch.backends.cpu.get_cpu_capability(); DEFAULT stands for all but these two.
INSTRUCTION_SETS: dict[str, tuple[str, ...]] = (
    {
        "AVX2": ("-mavx2", "-mfma"),
        "AVX512": (
            *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"),
            "-mprefer-vector-width=512",
        ),
    }
    if platform.machine().lower() in ("x86_64", "amd64")
    else {"DEFAULT": ()}
)


def version() -> str:
    """Return the hash of the sources and flags, by which a stale library is noticed."""
    digest = hashlib.sha256(repr((FLAGS, INSTRUCTION_SETS)).encode())
    for source in sorted(SOURCES.glob("*.[ch]*")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def library(capability: str) -> Path:
    """Return where the library for an instruction set lies, built or not."""
    return SOURCES / f"kernels_{capability.lower()}.so"


def build() -> list[Path]:
    """Compile the libraries and return those that could be built.

    Raises:
        FileNotFoundError: no C++ compiler: neither $CXX nor c++, g++ or clang++ on the PATH.
        RuntimeError: the compiler fails for every instruction set; the message has its words.
    """
    compiler = next(_compilers(), None)
    if compiler is None or sys.platform == "win32":
        raise FileNotFoundError(
            "no C++ compiler for the CPU kernels: expected $CXX, c++, g++ or clang++ on the PATH"
        )
    common = [*compiler, *FLAGS, f'-DKERNELS_VERSION="{version()}"', str(SOURCES / "kernels.cpp")]
    built, complaints = [], []
    for capability, flags in INSTRUCTION_SETS.items():
        final = library(capability)
        part = final.with_suffix(f".{os.getpid()}.part")
        done = subprocess.run([*common, *flags, "-o", str(part)], capture_output=True, text=True)
        if done.returncode:
            complaints.append(done.stderr.strip())
            part.unlink(missing_ok=True)
        else:
            part.replace(final)
            built.append(final)
    if not built:
        words = complaints[0] or "it fails without a word"
        raise RuntimeError(f"the CPU kernels do not compile with {compiler[0]}: {words}")
    return built


def _compilers() -> Iterator[list[str]]:
    if os.environ.get("CXX"):
        yield shlex.split(os.environ["CXX"])
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            yield [path]
