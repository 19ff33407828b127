"""Parsers of untrusted YAML and JSON: plain values of bounded size and depth, each key once.

yaml.safe_load alone follows aliases and merges that expand a short text to billions of values. Its
scalars are those of YAML 1.1, where 010 is 8, 1:30 is 90 and `no` is false; here they are those of
YAML 1.2's core schema.
"""

import json
import re
from collections.abc import Callable, Iterator
from math import isfinite
from pathlib import Path
from stat import S_ISREG
from typing import Any

import yaml

from flowclf.support.errors import UserError, first_line

__all__ = ["parse_json", "parse_yaml", "read_json", "read_text", "read_yaml", "yaml_text"]

Nested = dict[str, Any]
MAX_DEPTH = 50
MOST_BYTES = 2**30
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
        value = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(TOO_MUCH) from None
    for part in _values(value, text):
        if finite and isinstance(part, float) and not isfinite(part):
            raise ValueError(str(part))
    return value


def read_text(path: Path) -> str:
    """Read a text file in UTF-8.

    Raises:
        UserError: the file is missing, no plain file, too large, or in another encoding.
    """
    try:
        found = path.stat()
        # A pipe would be waited for, and a device has no end.
        if S_ISREG(found.st_mode) and found.st_size <= MOST_BYTES:
            return path.read_text("utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is damaged: expected UTF-8, got byte {error.object[error.start]:#04x}"
        ) from None
    raise UserError(f"cannot read {path}: expected a plain file of at most {MOST_BYTES:,} bytes")


# Scalars of YAML 1.2 by their tags, https://yaml.org/spec/1.2.2/#103-core-schema.
SCALARS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
    r"|\.(?:nan|NaN|NAN)",
}


class _Loader(yaml.SafeLoader):
    """Safe loader of YAML 1.2, with a bound on merged keys (<<), which are copied at each level."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"the key {key[1]!r} twice")
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        own = len(node.value)
        super().flatten_mapping(node)
        if len(node.value) > own + FREE_VALUES:
            raise ValueError(TOO_MUCH)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Read 10, +010, 0o12 and 0xA as 10."""
        text = str(self.construct_scalar(node))
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


for _tag, _pattern in SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), None)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile("<<$"), ["<"])
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


class _Dumper(yaml.SafeDumper):
    """Safe dumper that quotes what either version of YAML takes for something else than text."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        node = self.represent_str(text)
        if any(re.fullmatch(pattern, text) for pattern in SCALARS.values()):
            node.style = "'"
        return node


_Dumper.add_representer(str, _Dumper.represent_text)


def yaml_text(value: Any) -> str:
    """Return one YAML document, keys in the order given."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _once(pairs: list[tuple[str, Any]]) -> Nested:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return found


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
