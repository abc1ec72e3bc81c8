"""Whether learning ever makes a model worse than its start, on odd pictures and on small tables."""

from collections.abc import Mapping

import numpy as np
import torch
from scipy.ndimage import zoom
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine

from entrosparse import SparseCoding
from entrosparse.errors import ConvergenceWarning
from entrosparse.images import Image, default_images, prepare_images, random_patches
from entrosparse.learning import Floors, evaluate, initial_model
from entrosparse.priors import Laplace
from entrosparse.reproduce.shared.quiet_fits import quietly
from measuring import Bench, Line, Part

SIDE = 8
MOST_COMPONENTS = 256  # of SparseCoding, where none are asked for
QUICK_PICTURES = ("a black border", "smooth and textured")
QUICK_TABLES = ("iris", "wine")
HAIR = "≥-0.01"  # nats per sample, of rounding and of what is left when judging ends


def measure(bench: Bench) -> Part:
    pictures, tables = odd_pictures(), small_tables()
    if bench.quick:
        pictures = {name: pictures[name] for name in QUICK_PICTURES}
        tables = {name: tables[name] for name in QUICK_TABLES}
    n_patches = 256 if bench.quick else 2048
    patches = {name: _patches(arrays, n_patches) for name, arrays in pictures.items()}
    return Part([_line("odd pictures", patches), _line("tables", tables)])


def _line(work: str, data: Mapping[str, np.ndarray]) -> Line:
    gains = {
        f"{name}, {algorithm}": _gain(X, algorithm)
        for name, X in data.items()
        for algorithm in ("auto", "online")
    }
    worst = min(gains, key=gains.__getitem__)
    note = f"per sample, {worst}; the median gains {np.median(list(gains.values())):.2f}"
    return Line(
        "never worse", f"worst of {len(data)} {work}, above the start", gains[worst], "nats", HAIR, note
    )


def _gain(X: np.ndarray, algorithm: str) -> float:
    """Return the ELBO of the dictionary that is kept, less that of the start, on the same rows."""
    x = torch.from_numpy(((X - X.mean(axis=0)) / (X.std() or 1.0)).astype(X.dtype))
    n_components = min(X.shape[1], MOST_COMPONENTS)
    generator = torch.Generator().manual_seed(0)
    start = initial_model(x, n_components, "ica", Laplace(), generator).dictionary.numpy()
    with quietly(ConvergenceWarning):
        coding = SparseCoding(init=start, algorithm=algorithm, random_state=0).fit(X)
    return _judged(coding.components_.T, x) - _judged(start, x)


def _judged(dictionary: np.ndarray, x: torch.Tensor) -> float:
    model = initial_model(x, dictionary.shape[1], dictionary, Laplace(), torch.Generator().manual_seed(0))
    return float(evaluate(model, x, max_turns=200, floors=Floors.from_sample(x)).terms.elbo)


def _patches(arrays: list[np.ndarray], n_patches: int) -> np.ndarray:
    """Patches of the pictures, prepared as the command prepares them."""
    images = [Image(f"picture {k}", array.astype(np.float32)) for k, array in enumerate(arrays)]
    return random_patches(prepare_images(images).arrays, SIDE, n_patches, rng=0)[:]


def small_tables() -> dict[str, np.ndarray]:
    loaders = {
        "iris": load_iris,
        "wine": load_wine,
        "digits": load_digits,
        "breast cancer": load_breast_cancer,
        "diabetes": load_diabetes,
    }
    tables = {name: np.asarray(load().data, dtype=np.float64) for name, load in loaders.items()}
    return {
        name: (X - X.mean(axis=0)) / np.where(X.std(axis=0) > 0, X.std(axis=0), 1.0)
        for name, X in tables.items()
    }


def odd_pictures() -> dict[str, list[np.ndarray]]:
    """Ten folders of pictures that nobody would choose to learn from."""
    rng = np.random.default_rng(0)
    photographs = [image.pixels for image in default_images()]
    photograph = photographs[0]
    row, column = np.mgrid[:160, :160]
    one_pixel = np.zeros((64, 64))
    one_pixel[31, 40] = 1.0
    border = np.pad(photograph, 60)
    salted = np.where(rng.random(photograph.shape) < 0.1, rng.integers(0, 2, photograph.shape), photograph)
    smooth = zoom(rng.random((6, 4)), 200, order=3)
    crops = [picture[20:84, 20:84] for picture in photographs[:4]]
    return {
        "constant but for a pixel": [one_pixel],
        "two values": [((row // 5 + column // 5) % 2).astype(float)],
        "noise": [rng.normal(size=(160, 160))],
        "a smooth ramp": [zoom(np.linspace(0.0, 1.0, 16).reshape(4, 4), 60, order=1)],
        "a black border": [border],
        "one tiny picture": [photograph[40:52, 40:52]],
        "rotated stripes": [np.sin((row * np.cos(a) + column * np.sin(a)) / 2.0) for a in (0.3, 0.9, 2.2)],
        "text": [_text(rng)],
        "salt and pepper": [salted],
        "smooth and textured": [smooth, *crops],
    }


def _text(rng: np.random.Generator) -> np.ndarray:
    """Lines of black glyphs, twelve different ones of 7 x 5 pixels, on white."""
    glyphs = np.pad(rng.random((12, 7, 5)) < 0.45, ((0, 0), (2, 3), (0, 2)))
    lines = rng.integers(0, len(glyphs), size=(14, 24))
    return 1.0 - np.block([[glyphs[k].astype(float) for k in line] for line in lines])
