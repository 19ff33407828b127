"""YAML and JSON that anybody may have written, as plain values of bounded size and depth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from flowclf.support.errors import UserError, first_line

__all__ = ["parse_json", "parse_yaml", "read_json", "read_text", "read_yaml"]

Nested = dict[str, Any]
DEEPEST = 50
# A value takes a letter at least; by aliases of YAML a short text may stand for so many.
FREE = 10_000
TOO_MUCH = "values within values without measure"


def parse_yaml(text: str) -> Any:
    """Plain values: no tag makes an object of Python's.

    Raises:
        ValueError: no YAML, nested too deep, or aliases that repeat without measure.
    """
    try:
        value = yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError(TOO_MUCH) from None
    # Scalars that only look like numbers or dates fail in ways of their own.
    except Exception as error:
        raise ValueError(first_line(error)) from None
    for _ in _values(value, text):
        pass
    return value


def read_yaml(path: Path) -> Nested:
    """A YAML mapping.

    Raises:
        UserError: no such file, or a damaged one.
    """
    return _mapping(path, parse_yaml, "a YAML mapping")


def read_json(path: Path) -> Nested:
    """A JSON object.

    Raises:
        UserError: no such file, or a damaged one.
    """
    return _mapping(path, parse_json, "a JSON object")


def parse_json(text: str, finite: bool = True) -> Any:
    """Plain values; NaN and infinity, which JSON does not have, only if not `finite`.

    Raises:
        ValueError: no JSON, or nested too deep.
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
    """A file in UTF-8.

    Raises:
        UserError: no such file, or another encoding.
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
    """Merges (<<) no more keys than a text may stand for; they are copied at each level."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        own = len(node.value)
        super().flatten_mapping(node)
        if len(node.value) > own + FREE:
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
    """All there are, refusing what would take forever to copy or to walk through."""
    waiting, found, most = [(document, 0)], 0, max(FREE, len(text))
    while waiting:
        value, depth = waiting.pop()
        found += 1
        if found > most or depth > DEEPEST:
            raise ValueError(TOO_MUCH)
        # Python does not print integers of thousands of digits.
        if isinstance(value, int) and value.bit_length() > 64:
            raise ValueError("an integer beyond 64 bits")
        if isinstance(value, dict | list):
            parts = value.values() if isinstance(value, dict) else value
            waiting += [(part, depth + 1) for part in parts]
        yield value
