"""Parsers of untrusted YAML and JSON: plain values of bounded size and depth.

yaml.safe_load alone follows aliases and merges that expand a short text to billions of values.
"""

import json
from collections.abc import Callable, Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from flowclf.support.errors import UserError, first_line

__all__ = ["parse_json", "parse_yaml", "read_json", "read_text", "read_yaml"]

Nested = dict[str, Any]
MAX_DEPTH = 50
# A value takes at least one letter; through aliases in YAML a text may stand for this many more.
FREE_VALUES = 10_000
TOO_MUCH = "values nested too deep, or repeated too often"


def parse_yaml(text: str) -> Any:
    """Return a YAML document as plain values; tags of Python objects are refused.

    Raises:
        ValueError: invalid YAML, nested too deep, or aliases that repeat too often.
    """
    try:
        value = yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError(TOO_MUCH) from None
    # Malformed dates, integers and booleans raise errors of many types.
    except Exception as error:
        raise ValueError(first_line(error)) from None
    for _ in _values(value, text):
        pass
    return value


def read_yaml(path: Path) -> Nested:
    """Read a file that holds a YAML mapping.

    Raises:
        UserError: the file is missing or damaged.
    """
    return _mapping(path, parse_yaml, "a YAML mapping")


def read_json(path: Path) -> Nested:
    """Read a file that holds a JSON object.

    Raises:
        UserError: the file is missing or damaged.
    """
    return _mapping(path, parse_json, "a JSON object")


def parse_json(text: str, finite: bool = True) -> Any:
    """Return a JSON document as plain values.

    With `finite`, NaN and infinity, which Python's parser accepts and JSON lacks, are refused.

    Raises:
        ValueError: invalid JSON, or nested too deep.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(TOO_MUCH) from None
    for part in _values(value, text):
        if finite and isinstance(part, float) and not isfinite(part):
            raise ValueError(str(part))
    return value


def read_text(path: Path) -> str:
    """Read a text file in UTF-8.

    Raises:
        UserError: the file is missing or in another encoding.
    """
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is damaged: expected UTF-8, got byte {error.object[error.start]:#04x}"
        ) from None


class _Loader(yaml.SafeLoader):
    """Safe loader with a bound on merged keys (<<), which are copied at each level."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        own = len(node.value)
        super().flatten_mapping(node)
        if len(node.value) > own + FREE_VALUES:
            raise ValueError(TOO_MUCH)


def _mapping(path: Path, parse: Callable[[str], Any], what: str) -> Nested:
    text = read_text(path)
    try:
        document = parse(text)
    except ValueError as error:
        raise UserError(f"{path} is damaged: expected {what}, got {first_line(error)}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path} is damaged: expected {what}, got {type(document).__name__}")
    return document


def _values(document: Any, text: str) -> Iterator[Any]:
    """Iterate over all values; raise ValueError beyond the bounds on their number and depth."""
    waiting, found, most = [(document, 0)], 0, max(FREE_VALUES, len(text))
    while waiting:
        value, depth = waiting.pop()
        found += 1
        if found > most or depth > MAX_DEPTH:
            raise ValueError(TOO_MUCH)
        # Python does not print integers of thousands of digits.
        if isinstance(value, int) and value.bit_length() > 64:
            raise ValueError("an integer beyond 64 bits")
        if isinstance(value, dict | list):
            parts = value.values() if isinstance(value, dict) else value
            waiting += [(part, depth + 1) for part in parts]
        yield value
