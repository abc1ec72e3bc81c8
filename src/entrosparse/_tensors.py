"""Files of named tensors: safetensors of bounded size, whose names, shapes and dtypes are checked first."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import safetensors
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from entrosparse._files import one_line, open_ours, write_atomically
from entrosparse.errors import FileFormatError, InputError

_DTYPES = {"F32": torch.float32, "F64": torch.float64}


@final
@dataclass(frozen=True)
class TensorFile:
    """A file of tensors that is open for reading, or the part of it whose names have a common beginning.

    Attributes
    ----------
    path : path-like
        The file.
    metadata : dict
        Texts by name.
    prefix : str
        What the names in this part begin with; they are asked for without it.
    """

    path: str | Path
    metadata: dict[str, str]
    _file: Any
    prefix: str = ""

    def part(self, name: str) -> "TensorFile":
        """Return the part of the tensors whose names begin with ``name`` and a dot."""
        return TensorFile(self.path, self.metadata, self._file, f"{self.prefix}{name}.")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor."""
        return {name: tuple(self._slice(name).get_shape()) for name in self._names}

    @property
    def dtype(self) -> torch.dtype:
        """The one dtype of all tensors.

        Raises
        ------
        FileFormatError
            If there is none, or it is not float32 or float64.
        """
        found = {self._slice(name).get_dtype() for name in self._names}
        if len(found) != 1 or not found <= _DTYPES.keys():
            raise FileFormatError(
                f"the tensors in '{self.path}' must have one dtype, float32 or float64; got {sorted(found)}"
            )
        return _DTYPES[found.pop()]

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise FileFormatError unless the tensors have these names and shapes, and one dtype."""
        found = self.shapes
        self.check_names(shapes)
        for name, shape in shapes.items():
            if found[name] != shape:
                raise FileFormatError(
                    f"'{self.prefix}{name}' in '{self.path}' must have the shape {shape}; got {found[name]}"
                )
        _ = self.dtype

    def check_parts(self, names: set[str]) -> None:
        """Raise FileFormatError unless the tensors are in parts of these names."""
        found = {name.partition(".")[0] for name in self._names}
        if found != names:
            raise FileFormatError(f"'{self.path}' must hold the parts {sorted(names)}; got {sorted(found)}")

    def check_names(self, names: Mapping[str, Any]) -> None:
        """Raise FileFormatError unless the tensors have these names."""
        if set(self._names) != set(names):
            wanted, got = (sorted(self.prefix + name for name in each) for each in (names, self._names))
            raise FileFormatError(f"'{self.path}' must hold {wanted}; got {got}")

    def read(self) -> dict[str, Tensor]:
        """Return the tensors, which must be finite."""
        tensors = {name: self._file.get_tensor(self.prefix + name) for name in self._names}
        for name, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise FileFormatError(f"'{self.prefix}{name}' in '{self.path}' must be finite")
        return tensors

    @property
    def _names(self) -> list[str]:
        found = (name for name in self._file.keys() if name.startswith(self.prefix))  # noqa: SIM118
        return [name.removeprefix(self.prefix) for name in found]

    def _slice(self, name: str) -> Any:
        return self._file.get_slice(self.prefix + name)


@contextmanager
def open_tensors(path: str | Path, kind: str, limit: int) -> Iterator[TensorFile]:
    """Open a file of tensors; whatever proves wrong with it becomes a FileFormatError that names the kind.

    Links are followed, as the user names the file.
    """
    try:
        with (
            open_ours(Path(path), limit, follow_links=True),
            safetensors.safe_open(str(path), framework="pt") as file,
        ):
            yield TensorFile(path, file.metadata() or {}, file)
    except FileFormatError:
        raise
    except FileNotFoundError as error:
        raise FileFormatError(f"'{path}' does not exist") from error
    except (OSError, InputError, safetensors.SafetensorError, RecursionError) as error:
        raise FileFormatError(f"'{path}' cannot be read as a saved {kind}: {one_line(error)}") from error


def write_tensors(
    path: str | Path, kind: str, limit: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a file of tensors, aside first and then renamed into place.

    Raises
    ------
    InputError
        If the file would have more than ``limit`` bytes, so that it could not be read back.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = safetensors_bytes(on_cpu, metadata=dict(metadata))
    if len(data) > limit:
        raise InputError(f"a saved {kind} must have at most {limit:,} bytes; got {len(data):,}")
    write_atomically(path, lambda stream: stream.write(data))


def named(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with names that begin with that of a part of a file and a dot."""
    return {f"{part}.{name}": tensor for name, tensor in tensors.items()}
