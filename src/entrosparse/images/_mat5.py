"""Numeric arrays of MATLAB 5 files (formats -v6 and -v7).

A file is a sequence of elements: a type code, a number of bytes, the bytes. A damaged file is refused and can
do no harm: every count is checked against the bytes that are there before it is used, and compressed elements
are unpacked only up to a given size.
"""

import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MATRIX, _COMPRESSED = 14, 15
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_NUMERIC_CLASSES = range(6, 16)  # Double, single and the eight integers.
_COMPLEX = 0x0800


def read_mat5(content: bytes, most_bytes: int) -> dict[str, NDArray[Any]]:
    """Return the real numeric arrays by name; structures, cells, texts and the like are left out.

    All compressed elements together may be unpacked to ``most_bytes`` bytes. A damaged file raises a
    ValueError, a struct.error or a zlib.error.
    """
    order = ">" if content[126:128] == b"MI" else "<"
    arrays: dict[str, NDArray[Any]] = {}
    for code, element in _elements(memoryview(content)[128:], order):
        if code == _COMPRESSED:
            unpacked = _unpack(element, most_bytes)
            most_bytes -= len(unpacked)
            code, element = next(_elements(unpacked, order), (0, element))
        if code != _MATRIX:
            raise ValueError(f"an element has type {code} where a matrix must stand")
        arrays |= _numeric_array(element, order)
    return arrays


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield type code and bytes of each element in turn."""
    while data:
        code, size = struct.unpack_from(order + "II", data)
        start = 8
        if code >> 16:  # Up to four bytes stand in the tag itself.
            code, size, start = code & 0xFFFF, code >> 16, 4
        stop = start + size
        if stop > len(data) or (start == 4 and size > 4):
            raise ValueError(f"an element claims {size} bytes, more than there are")
        yield code, data[start:stop]
        padding = 0 if code == _COMPRESSED else -stop % 8
        data = data[stop + padding :]


def _unpack(packed: memoryview, most_bytes: int) -> memoryview:
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(packed, most_bytes + 1)
    if len(data) > most_bytes or not unpacker.eof:
        raise ValueError(f"a compressed variable is cut off or unpacks to more than {most_bytes:,} bytes")
    return memoryview(data)


def _numeric_array(element: memoryview, order: str) -> dict[str, NDArray[Any]]:
    """Return the array of a matrix element under its name, or nothing for another kind of variable."""
    parts = _elements(element, order)
    (_, flags), (_, shape), (_, name), (code, data) = islice(parts, 4)
    (word,) = struct.unpack_from(order + "I", flags)
    if word & 0xFF not in _NUMERIC_CLASSES or word & _COMPLEX:
        return {}
    if code not in _DTYPES:
        raise ValueError(f"an array holds numbers of the unknown type {code}")
    array = np.frombuffer(data, order + _DTYPES[code])
    return {bytes(name).decode("latin-1"): array.reshape(np.frombuffer(shape, order + "u4"), order="F")}
