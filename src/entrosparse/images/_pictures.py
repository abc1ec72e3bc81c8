"""Greyscale images from picture files, NumPy arrays and MATLAB files."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from entrosparse._files import check_claim, most_bytes, one_line, open_regular, printable, read_arrays
from entrosparse.errors import FileFormatError, InputError
from entrosparse.images._mat5 import read_mat5

if TYPE_CHECKING:
    import PIL.Image


@dataclass(frozen=True, eq=False)
class Image:
    """A named greyscale image, checked to be usable for learning.

    Attributes
    ----------
    name : str
        What messages call the image: the file's name, with the array and slice where there are several.
    pixels : ndarray of float32, shape (height, width)
        Copied from any real numeric array of at least 2 x 2 pixels. The unit is the source's own.
    allow_missing : bool
        Whether pixels may be NaN, which are missing; one at least must be there.

    Raises
    ------
    InputError
        If the pixels are of another kind or shape, if any is not finite, or if all are equal.
    """

    name: str
    pixels: NDArray[np.float32]
    allow_missing: bool = False

    def __post_init__(self) -> None:
        given = np.asarray(self.pixels)
        if given.ndim != 2 or not _is_picture(given, "uif"):
            raise InputError(
                f"image '{self.name}' must be a real numeric array of height x width, at least 2 x 2; "
                f"got {given.dtype} of shape {given.shape}"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # Pixels that are not finite are counted below.
            pixels = np.array(given, dtype=np.float32, order="C")
        bad = np.isinf(pixels) if self.allow_missing else ~np.isfinite(pixels)
        n_bad, kinds = int(np.count_nonzero(bad)), "infinite" if self.allow_missing else "NaN or infinite"
        if n_bad:
            raise InputError(
                f"image '{self.name}' must have finite pixels; {n_bad} of {pixels.size} are {kinds}"
            )
        seen = pixels[~np.isnan(pixels)] if self.allow_missing else pixels.ravel()
        if seen.size == 0:
            raise InputError(f"image '{self.name}' must have pixels; all {pixels.size} are missing")
        if seen.min() == seen.max():
            raise InputError(
                f"image '{self.name}' must not be constant; all {seen.size} pixels are {seen[0]:g}"
            )
        object.__setattr__(self, "pixels", pixels)


def load_images(source: str | Path, channel: str = "luma", allow_missing: bool = False) -> list[Image]:
    """Read greyscale images from a folder of pictures, a picture, an array file or a MATLAB file.

    Parameters
    ----------
    source : str or Path
        One of

        - a folder: its PNG, JPEG, TIFF and WebP files in the order of their names; other files are ignored;
        - one such picture. Colour becomes the channel in [0, 1], transparent parts are laid on white, and
          greys deeper than 8 bits keep their values. Each page of a TIFF is an image;
        - a ``.npy`` or ``.npz`` file (never unpickled), or a MATLAB ``.mat`` file (version 7.3 needs the
          ``hdf5`` extra). A real numeric array of height x width is one image, and one of height x width x n
          is n images, also when n is 3. Several arrays are taken in the order of their names; anything else
          in the file is ignored.

        A picture is turned as its EXIF data say. Only regular files are read, and a ``.mat`` file that shows
        parts of other files is refused. No file may take more than 256 MiB of memory, or a hundred times its
        own size if that is more.
    channel : str
        What is read of pictures in colour: ``"luma"``, ``"red"``, ``"green"`` or ``"blue"``. Arrays are what
        they are.
    allow_missing : bool
        Whether pixels of arrays may be NaN, which are missing.

    Returns
    -------
    list of Image
        At least one image.

    Raises
    ------
    FileFormatError
        If the source is missing, damaged, of an unknown kind, or holds no image.
    InputError
        If there is no such channel, an image has pixels that are not finite or is constant, or h5py is needed
        and missing.
    """
    _check_channel(channel)
    source = Path(source)
    if not os.path.exists(source):
        raise FileFormatError(f"the source of the images must be an existing file or folder; got '{source}'")
    try:
        paths = _pictures_in(source) if source.is_dir() else [source]
    except OSError as error:
        raise FileFormatError(f"cannot read '{source}': {one_line(error)}") from error
    if not paths:
        raise FileFormatError(
            f"a folder of images must hold {', '.join(_PICTURE_SUFFIXES)} files; found none in '{source}'"
        )
    return [Image(*named, allow_missing) for path in paths for named in _read_file(path, channel)]


def load_mask(path: str | Path) -> NDArray[np.bool_]:
    """Read which pixels of an image are marked: those that are not zero in a picture or an array file.

    Parameters
    ----------
    path : str or Path
        A picture or array file, as for :func:`load_images`, that holds one array of height x width.

    Returns
    -------
    ndarray of bool, shape (height, width)

    Raises
    ------
    FileFormatError
        If the file is missing, damaged, of an unknown kind, or holds anything but one such array.
    """
    arrays = _read_file(Path(path), "luma", kinds="uifb")
    if len(arrays) != 1:
        raise FileFormatError(f"the mask must be one array of height x width; '{path}' holds {len(arrays)}")
    return arrays[0][1] != 0


def default_images(channel: str = "luma") -> list[Image]:
    """Return the photographs that are installed with scikit-image: a channel in [0, 1], at half their size.

    Averaging blocks of 2 x 2 pixels removes most traces of image compression. Nothing is downloaded.

    Parameters
    ----------
    channel : str
        ``"luma"``, ``"red"``, ``"green"`` or ``"blue"``.

    Returns
    -------
    list of Image
        Six photographs, 150 to 256 pixels high.

    Raises
    ------
    FileFormatError
        If scikit-image was installed without them.
    InputError
        If there is no such channel.
    """
    _check_channel(channel)
    folder = Path(str(files("skimage.data")))
    images = []
    for name in _INSTALLED:
        ((_, whole),) = _read_file(folder / name, channel)
        height, width = (side // 2 for side in whole.shape)
        blocks = whole[: 2 * height, : 2 * width].reshape(height, 2, width, 2)
        images.append(Image(Path(name).stem, blocks.mean(axis=(1, 3))))
    return images


def _check_channel(channel: str) -> None:
    if channel not in tuple(_CHANNELS):
        raise InputError(f"the 'channel' parameter must be one of {', '.join(_CHANNELS)}; got {channel!r}")


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _read_file(path: Path, channel: str, kinds: str = "uif") -> list[tuple[str, NDArray[Any]]]:
    """Read the arrays of height x width in one file, and their names; others than of these kinds are ignored.

    Readers run only here, so every failure of theirs becomes an error of this package.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise FileFormatError(
            f"the source of the images must be a folder or a file of kind {', '.join(_READERS)}; got '{path}'"
        )
    try:
        with open_regular(path) as file:
            arrays = read(file, channel)
            # While an image is made, the array, its copy as float32 and a mask are held.
            n_bytes = sum(array.nbytes + 5 * array.size for array in arrays.values())
            check_claim(file, n_bytes, most_bytes(file))
    except InputError:
        raise
    except Exception as error:  # Damaged files make their readers raise nearly anything.
        raise FileFormatError(f"cannot read '{path}': {one_line(error)}") from error
    usable = {label: array for label, array in arrays.items() if _is_picture(array, kinds)}
    if not usable:
        found = [f"{array.dtype} of shape {array.shape}" for array in arrays.values()]
        raise FileFormatError(
            f"'{path}' must hold a real numeric array of height x width (x n), at least 2 x 2 pixels; "
            f"found {'; '.join(found[:5]) or 'no array'}"
        )
    named = []
    for label, array in usable.items():
        name = printable(path.name + label)
        if array.ndim == 2:
            named.append((name, array))
        else:
            named += [(f"{name}[{k}]", array[:, :, k]) for k in range(array.shape[2])]
    return named


def _is_picture(array: NDArray[Any], kinds: str) -> bool:
    return array.dtype.kind in kinds and array.ndim in (2, 3) and min(array.shape[:2]) >= 2 and array.size > 0


def _channel(picture: "PIL.Image.Image", channel: str) -> NDArray[Any]:
    """Return greys deeper than 8 bits as they are, otherwise a channel in [0, 1] of the picture on white.

    The picture is turned as its EXIF data say. It is converted in blocks of rows, which bounds the memory.
    """
    import PIL.Image
    import PIL.ImageOps

    PIL.ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode.startswith(("I", "F")):
        return np.asarray(picture)
    width, height = picture.size
    n_rows = max(1, _BLOCK // width)
    pixels = np.empty((height, width), dtype=np.float32)
    for top in range(0, height, n_rows):
        block = picture.crop((0, top, width, min(top + n_rows, height)))
        if picture.has_transparency_data:
            white = PIL.Image.new("RGBA", block.size, "white")
            block = PIL.Image.alpha_composite(white, block.convert("RGBA"))
        pixels[top : top + n_rows] = np.asarray(block.convert("RGB"), dtype=np.float32) @ _CHANNELS[channel]
    return pixels


def _read_picture(file: BinaryIO, channel: str) -> dict[str, NDArray[Any]]:
    import PIL.Image
    from PIL.ImageSequence import Iterator as Pages

    logging.getLogger("PIL").addHandler(_QUIET)
    try:
        picture = PIL.Image.open(file, formats=("PNG", "JPEG", "TIFF", "WEBP"))
    except PIL.UnidentifiedImageError as error:
        raise FileFormatError(f"'{file.name}' is not a PNG, JPEG, TIFF or WebP picture") from error
    check_claim(file, _BYTES_PER_PIXEL * picture.width * picture.height, most_bytes(file))
    if picture.format != "TIFF":  # Further frames of other formats are previews or animations.
        return {"": _channel(picture, channel)}
    pages, claimed = [], 0
    for page in Pages(picture):
        area = page.width * page.height
        claimed += _BYTES_PER_PIXEL * area
        check_claim(file, claimed, most_bytes(file))
        # Pixels outside of all boxes would be read as zeros.
        boxes = [tile[1] or (0, 0, *page.size) for tile in picture.tile]
        if sum((right - left) * (bottom - top) for left, top, right, bottom in boxes) < area:
            raise FileFormatError(f"'{file.name}' must hold whole pictures; a part has no pixels")
        pages.append(_channel(page, channel))
    return {"": pages[0]} if len(pages) == 1 else {f"[{index}]": page for index, page in enumerate(pages)}


def _read_numpy(file: BinaryIO, channel: str) -> dict[str, NDArray[Any]]:
    arrays = read_arrays(file, most_bytes(file))
    return {f":{name}" if name else "": array for name, array in arrays.items()}


def _read_matlab(file: BinaryIO, channel: str) -> dict[str, NDArray[Any]]:
    from scipy.io import loadmat
    from scipy.io.matlab import matfile_version

    start = file.read(520)  # A text header of 512 bytes may precede the mark of HDF5.
    file.seek(0)
    if b"\x89HDF\r\n\x1a\n" in start:
        variables = _matlab_7_3(file)
    elif matfile_version(file)[0] == 0:  # MATLAB 4
        variables = loadmat(file)
    else:
        variables = read_mat5(file.read(), most_bytes(file))
    return {f":{name}": value for name, value in sorted(variables.items()) if isinstance(value, np.ndarray)}


def _matlab_7_3(file: BinaryIO) -> dict[str, Any]:
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            f"'{file.name}' is a MATLAB 7.3 file, which needs h5py: pip install 'entrosparse[hdf5]'"
        ) from error
    arrays = {}
    with h5py.File(file, "r") as archive:
        for name in archive:
            # A link by name, and a dataset that is kept elsewhere, could show any file of the machine.
            if not isinstance(archive.get(name, getlink=True), h5py.HardLink):
                raise FileFormatError(f"'{file.name}' must hold its variables itself; one is a link")
            item = archive[name]
            if not isinstance(item, h5py.Dataset) or item.shape is None or item.dtype.kind not in "uif":
                continue
            if item.external or item.is_virtual:
                raise FileFormatError(f"'{file.name}' must hold its variables itself; one is in another file")
            arrays[name] = item
        check_claim(file, sum(item.size * item.dtype.itemsize for item in arrays.values()), most_bytes(file))
        return {name: np.transpose(item[()]) for name, item in arrays.items()}  # MATLAB reverses the axes.


_WEIGHTS = {"luma": (0.2125, 0.7154, 0.0721), "red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}

# What is read of pictures in colour, by name: weights of their red, green and blue bytes.
_CHANNELS = {name: np.array(weights, dtype=np.float32) / 255 for name, weights in _WEIGHTS.items()}

_BLOCK = 2**20  # Pixels that are converted at once.

# A picture takes at most 4 bytes per pixel as it is decoded, 4 when it is turned, and 4 as a channel.
_BYTES_PER_PIXEL = 12

# Without a handler of its own, Pillow's messages would go to the standard error stream.
_QUIET = logging.NullHandler()

_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")

# Photographs that come with scikit-image.
_INSTALLED = ["astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"]

_READERS: dict[str, Callable[[BinaryIO, str], dict[str, NDArray[Any]]]] = {
    **dict.fromkeys(_PICTURE_SUFFIXES, _read_picture),
    ".npy": _read_numpy,
    ".npz": _read_numpy,
    ".mat": _read_matlab,
}
