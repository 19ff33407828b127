"""Build hooks: the CPU kernels of `couplings`, and the README as a package index shows it.

The kernels are compiled where there is a C++ compiler. A wheel with them is for one platform;
without a compiler it is the same wheel without them.
"""

import re
import sys
import sysconfig
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface


class KernelsHook(BuildHookInterface):  # type: ignore[misc]
    """Compile the kernels beside their sources and put them into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build them; say so in one line where that is impossible."""
        root = Path(self.root)
        try:
            libraries = _build_native(root).build()
        except (FileNotFoundError, RuntimeError) as error:
            print(
                f"couplings: operators in PyTorch instead of compiled ones: {error}",
                file=sys.stderr,
            )
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        build_data["artifacts"] += [str(path.relative_to(root)) for path in libraries]


class ReadmeHook(MetadataHookInterface):  # type: ignore[misc]
    """Fill in the README, whose pictures and links are relative to a checkout."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Make them absolute."""
        text = (Path(self.root) / "README.md").read_text("utf-8")
        source = metadata.get("urls", {}).get("Source")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": with_addresses(text, source),
        }


def with_addresses(text: str, source: str | None) -> str:
    """Return a README whose relative targets begin with the address of the repository.

    Without an address pictures become their descriptions, and links their texts.
    """
    relative = r"\[([^\]]*)\]\((?!https?:|#)([^)]+)\)"
    if source is not None:
        return re.sub(relative, rf"[\1]({source.rstrip('/')}/raw/HEAD/\2)", text)
    return re.sub(relative, r"\1", re.sub("!" + relative, r"*(picture: \1)*", text))


def _build_native(root: Path) -> ModuleType:
    """Load the module alone: its package imports torch, which is not there yet."""
    spec = spec_from_file_location("build_native", root / "couplings/ops/build_native.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
