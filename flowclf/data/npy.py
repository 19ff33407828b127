"""The header of numpy's .npy format, without trust."""

from typing import IO

import numpy as np

from flowclf.support.errors import UserError

__all__ = ["read_header"]

# A third version has but names of fields that are not Latin.
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_header(
    stream: IO[bytes], where: str, remedy: str
) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, whether the first index runs fastest, and dtype; the stream is left at the numbers.

    Raises:
        UserError: no such header, or one of Python objects.
    """
    try:
        shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
    # numpy's parser fails in ways of its own.
    except Exception as error:
        raise UserError(
            f"{where}: expected an array in numpy's format, got {type(error).__name__}; {remedy}"
        ) from error
    if dtype.hasobject:
        raise UserError(
            f"{where}: expected an array of numbers, got Python objects; convert it with "
            "numpy.asarray(…, dtype=…)"
        )
    return shape, fortran, dtype
