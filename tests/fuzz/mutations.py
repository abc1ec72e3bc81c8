"""Damage done to the bytes of a file, drawn from a seeded generator."""

import struct

import numpy as np

EXTREMES = (0, 1, 7, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the content with one to three damages; half of them hit the first kilobyte."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if data:
            end = len(data) if rng.random() < 0.5 else min(len(data), 1024)
            DAMAGES[rng.integers(len(DAMAGES))](data, int(rng.integers(end)), rng)
    return bytes(data)


def _flip_bit(data: bytearray, place: int, rng: np.random.Generator) -> None:
    data[place] ^= 1 << rng.integers(8)


def _set_bytes(data: bytearray, place: int, rng: np.random.Generator) -> None:
    length = len(data[place : place + int(rng.integers(1, 9))])
    data[place : place + length] = rng.bytes(length)


def _set_integer(data: bytearray, place: int, rng: np.random.Generator) -> None:
    """Put an extreme number where a size or an offset may stand."""
    code = "<" + "HIQ"[rng.integers(3)] if rng.random() < 0.7 else ">" + "HIQ"[rng.integers(3)]
    size = struct.calcsize(code)
    place -= place % 2
    if place + size <= len(data):
        data[place : place + size] = struct.pack(code, int(rng.choice(EXTREMES)) % 256**size)


def _set_digits(data: bytearray, place: int, rng: np.random.Generator) -> None:
    """Lengthen the next number that is written in digits, where there is one."""
    while place < len(data) and not chr(data[place]).isdigit():
        place += 1
    if place < len(data):
        data[place : place + 1] = str(rng.choice(EXTREMES)).encode()


def _truncate(data: bytearray, place: int, rng: np.random.Generator) -> None:
    del data[place:]


def _remove(data: bytearray, place: int, rng: np.random.Generator) -> None:
    del data[place : place + int(rng.integers(1, 65))]


def _repeat(data: bytearray, place: int, rng: np.random.Generator) -> None:
    part = data[place : place + int(rng.integers(1, 257))]
    start = int(rng.integers(len(data)))
    data[start:start] = part


def _splice(data: bytearray, place: int, rng: np.random.Generator) -> None:
    """Overwrite one part with another."""
    part = data[place : place + int(rng.integers(1, 257))]
    start = int(rng.integers(len(data)))
    data[start : start + len(part)] = part


DAMAGES = (
    _flip_bit, _flip_bit, _set_bytes, _set_integer, _set_digits, _truncate, _remove, _repeat, _splice,
)  # fmt: skip
