"""What a part of a run is, in words, such that two parts that differ have different words."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from hashlib import sha256
from numbers import Real
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from entrosparse.errors import InputError


def parameters_of(part: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name; of other values, nothing."""
    if not is_dataclass(part) or isinstance(part, type):
        return {}
    return {field.name: getattr(part, field.name) for field in fields(part) if field.init}


def words(part: Any, path: str = "") -> dict[str, str]:
    """Describe a part and, if it is a dataclass, all that it is made of, by their paths.

    Raises
    ------
    InputError
        If something cannot be told apart from another of its kind.
    """
    found = {path: _kind(part) if is_dataclass(part) and not isinstance(part, type) else in_words(part, path)}
    for name, value in parameters_of(part).items():
        found |= words(value, f"{path}.{name}".lstrip("."))
    return found


def in_words(part: Any, path: str = "") -> str:
    """Describe a value: numbers by what they are worth, arrays by their SHA-256, code by what it does.

    Raises
    ------
    InputError
        If it cannot be told apart from another of its kind.
    """
    if part is None or isinstance(part, bool | str | bytes | PurePath):
        return str(part)
    if isinstance(part, Real):
        number = float(part)
        return str(int(number)) if number.is_integer() else repr(number)
    if isinstance(part, torch.dtype | torch.device | np.dtype):
        return str(part)
    if isinstance(part, Tensor | np.ndarray | np.generic):
        return _array_in_words(part)
    if isinstance(part, Mapping):
        return _listed("{}", (f"{in_words(k, path)}: {in_words(part[k], path)}" for k in part))
    if isinstance(part, list | tuple):
        return _listed("()", (in_words(value, path) for value in part))
    if isinstance(part, set | frozenset):
        return _listed("{}", sorted(in_words(value, path) for value in part))
    if isinstance(part, partial):
        return f"{in_words(part.func, path)}{in_words(part.args, path)}{in_words(part.keywords, path)}"
    if isinstance(part, type | BuiltinFunctionType | np.ufunc):
        return getattr(part, "__qualname__", None) or part.__name__
    if isinstance(part, MethodType):
        return f"{in_words(part.__self__, path)}.{in_words(part.__func__, path)}"
    if isinstance(part, FunctionType):
        return _function_in_words(part, path)
    if isinstance(part, nn.Module):
        return f"{part} {in_words(part.state_dict(), path)}"
    if is_dataclass(part):
        return f"{_kind(part)}{in_words(parameters_of(part), path)}"
    if type(part).__module__ != "builtins" and hasattr(part, "__dict__") and not hasattr(part, "__slots__"):
        return f"{_kind(part)}{in_words(vars(part), path)}"
    raise InputError(
        f"checkpoints must be able to tell what '{path}' is; a {_kind(part)} cannot be told from another: "
        "make it a dataclass whose fields are its settings"
    )


def rows_in_words(blocks: Iterable[Any]) -> str:
    """Describe a table by the SHA-256 of all its rows, read block by block."""
    hashed, n_rows, kind = sha256(), 0, ""
    for block in blocks:
        array = np.ascontiguousarray(block)
        hashed.update(array.data)
        n_rows, kind = n_rows + len(array), f"{array.dtype} {array.shape[1:]}"
    return f"{n_rows} rows of {kind} {hashed.hexdigest()}"


def digest(content: bytes | str) -> str:
    """Return the SHA-256 of some content."""
    return sha256(content if isinstance(content, bytes) else content.encode()).hexdigest()


def _kind(part: Any) -> str:
    return type(part).__qualname__


def _listed(brackets: str, values: Any) -> str:
    return f"{brackets[0]}{', '.join(values)}{brackets[1]}"


def _array_in_words(array: Any) -> str:
    array = torch.as_tensor(array).detach().cpu().contiguous()
    return f"{array.dtype} {tuple(array.shape)} {digest(array.numpy().tobytes())}"


def _function_in_words(function: FunctionType, path: str) -> str:
    """Describe a function by its name, its code, its defaults and what it closes over."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    held = in_words([function.__defaults__, function.__kwdefaults__, cells], path)
    return f"{function.__qualname__} {digest(_code(function.__code__) + held.encode())}"


def _code(code: Any) -> bytes:
    """Return what a function does as bytes that are the same in every process of one Python version."""
    constants = [
        _code(c)
        if hasattr(c, "co_code")
        else repr(sorted(map(repr, c)) if isinstance(c, frozenset) else c).encode()
        for c in code.co_consts
    ]
    return b"\0".join([code.co_code, repr((code.co_names, code.co_freevars)).encode(), *constants])
