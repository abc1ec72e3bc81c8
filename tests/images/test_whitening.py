import numpy as np
import pytest

from entrosparse.errors import InputError
from entrosparse.images import WHITENINGS, Image, default_images, prepare_images


def random_image(shape, seed=0, name="noise"):
    return Image(name, np.random.default_rng(seed).random(shape) * 40 + 100)


def slow_whitening(pixels):
    """Filter the image and its mirror images by explicit sums over signed frequencies: the definition."""
    image = (pixels - pixels.mean()) / pixels.std()
    image = np.block([[image, image[:, ::-1]], [image[::-1], image[::-1, ::-1]]])
    height, width = image.shape
    rows, columns = np.mgrid[:height, :width]
    out = np.zeros((height, width), dtype=complex)
    for v in range(-((height - 1) // 2), height // 2 + 1):
        for u in range(-((width - 1) // 2), width // 2 + 1):
            wave = np.exp(2j * np.pi * (v * rows / height + u * columns / width))
            coefficient = (image * wave.conj()).mean()
            rho = np.sqrt((v / height) ** 2 + (u / width) ** 2)
            out += coefficient * rho * np.exp(-((rho / 0.4) ** 4)) * wave
    assert np.abs(out.imag).max() < 1e-12
    return out.real[: height // 2, : width // 2]


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (6, 11), (12, 5)])
def test_olshausen_equals_the_definition(shape):
    image = random_image(shape)
    prepared = prepare_images([image])
    expected = slow_whitening(image.pixels.astype(np.float64))
    expected *= np.sqrt(0.1 / expected.var())
    assert prepared.arrays[0].shape == shape
    assert prepared.arrays[0].dtype == np.float32
    np.testing.assert_allclose(prepared.arrays[0], expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 40), (40, 80), (80, 40)])
def test_waves_are_passed_by_frequency_alone(shape):
    """The ratio of two waves' amplitudes is that of ρ exp(−(ρ/0.4)⁴), in any direction and shape."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    frequencies = np.array([[0.05, 0.0], [0.0, 0.1], [0.15, 0.2], [0.4, 0.0], [0.3, 0.4]])  # row, column
    waves = [np.cos(2 * np.pi * v * rows) * np.cos(2 * np.pi * u * columns) for v, u in frequencies]
    image = Image("waves", sum(waves))
    prepared = prepare_images([image], gain=1.0).arrays[0].astype(np.float64)
    amplitude = np.array([(prepared * wave).mean() / (wave**2).mean() for wave in waves])
    rho = np.array([0.05, 0.1, 0.25, 0.4, 0.5])
    np.testing.assert_allclose(amplitude * image.pixels.std(), rho * np.exp(-((rho / 0.4) ** 4)), rtol=1e-5)


def test_opposite_borders_do_not_meet():
    """Continued periodically, the borders of a photograph meet in a seam that outshines all else."""
    image = default_images()[0]
    height, width = image.pixels.shape
    rho = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    periodic = np.fft.ifft2(np.fft.fft2(image.pixels) * rho * np.exp(-((rho / 0.4) ** 4))).real

    def glare(whitened):
        border = (whitened[0], whitened[-1], whitened[:, 0], whitened[:, -1])
        return np.mean([np.square(edge).mean() for edge in border]) / np.square(whitened).mean()

    assert glare(periodic) > 3
    assert glare(prepare_images([image]).arrays[0]) < 1


@pytest.mark.parametrize("whiten", WHITENINGS)
def test_mean_variance_is_a_tenth(whiten):
    images = [
        random_image((20, 30), 1, "a"),
        Image("b", np.cumsum(np.random.default_rng(2).random((25, 25)), 0)),
    ]
    prepared = prepare_images(images, whiten)
    assert prepared.names == ["a", "b"]
    assert prepared.whiten == whiten
    assert np.mean([array.var() for array in prepared.arrays]) == pytest.approx(0.1, rel=1e-5)
    np.testing.assert_allclose([array.mean() for array in prepared.arrays], 0, atol=1e-6)
    variances = [array.var() for array in prepared.arrays]
    assert (abs(variances[0] - variances[1]) < 1e-6) == (whiten == "none")  # one factor, not one for each


def test_none_only_standardises():
    image = random_image((12, 14))
    prepared = prepare_images([image], "none")
    z = (image.pixels - image.pixels.mean()) / image.pixels.std()
    np.testing.assert_allclose(prepared.arrays[0], np.sqrt(0.1) * z, atol=1e-5)
    assert prepared.gain == pytest.approx(np.sqrt(0.1))


@pytest.mark.parametrize("whiten", WHITENINGS)
def test_contrast_and_brightness_do_not_matter(whiten):
    image = random_image((16, 16))
    other = Image("other", image.pixels * 3 - 50)
    one, two = (prepare_images([each], whiten).arrays[0] for each in (image, other))
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_new_images_take_the_training_gain():
    training, new = random_image((20, 20), 1), Image("new", np.cumsum(random_image((20, 20), 2).pixels, 1))
    prepared = prepare_images([training])
    together = prepare_images([training, new], gain=prepared.gain)
    alone = prepare_images([new], gain=prepared.gain)
    assert alone.gain == together.gain == prepared.gain
    np.testing.assert_array_equal(together.arrays[0], prepared.arrays[0])
    np.testing.assert_array_equal(together.arrays[1], alone.arrays[0])
    assert alone.arrays[0].var() != pytest.approx(0.1, rel=0.05)


def test_unknown_whitening_lists_the_known():
    with pytest.raises(InputError, match=r"'whiten'.*olshausen, none; got 'zca'"):
        prepare_images([random_image((8, 8))], "zca")


@pytest.mark.parametrize("gain", [0.0, -1.0, np.nan, np.inf, "1"])
def test_bad_gain(gain):
    with pytest.raises(InputError, match="'gain'"):
        prepare_images([random_image((8, 8))], gain=gain)


def test_no_images():
    with pytest.raises(InputError, match="'images'"):
        prepare_images([])


# --- undone


@pytest.mark.parametrize("shape", [(24, 24), (17, 40)])
def test_whitening_and_its_inverse_return_the_image_but_for_the_corners_of_the_spectrum(shape):
    """Waves below 0.49 cycles per pixel come back; those above, which are hardly passed, do not."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    frequencies = np.array([[0, 1], [3, 0], [5, 7], [shape[0] - 1, 1], [shape[0] - 2, shape[1] - 3]])
    waves = [
        np.cos(np.pi * v * rows / shape[0]) * np.cos(np.pi * u * columns / shape[1]) for v, u in frequencies
    ]
    rho = np.hypot(*(frequencies / (2 * np.array(shape))).T)
    assert (rho < 0.49).sum() == 4
    low = 7.0 + sum(wave for wave, r in zip(waves, rho, strict=True) if r < 0.49)
    prepared = prepare_images([Image("waves", 7.0 + sum(waves))])
    (restored,) = prepared.restored(prepared.arrays)
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, low, atol=2e-4)


def test_photographs_come_back_nearly_whole():
    images = default_images()[:2]
    prepared = prepare_images(images)
    for image, restored in zip(images, prepared.restored(prepared.arrays), strict=True):
        assert np.sqrt(np.mean((restored - image.pixels) ** 2)) < 0.05 * image.pixels.std()


def test_without_whitening_nothing_is_lost():
    images = [random_image((12, 14)), random_image((9, 20), 1)]
    prepared = prepare_images(images, "none", gain=0.3)
    for image, restored in zip(images, prepared.restored(prepared.arrays), strict=True):
        np.testing.assert_allclose(restored, image.pixels, rtol=1e-6)


# --- missing pixels


def test_missing_pixels_stay_missing_and_count_for_nothing():
    pixels = random_image((12, 14)).pixels.copy()
    missing = np.random.default_rng(1).random(pixels.shape) < 0.3
    seen = pixels[~missing].astype(np.float64)
    pixels[missing] = np.nan
    prepared = prepare_images([Image("holes", pixels, allow_missing=True)], "none")
    np.testing.assert_array_equal(np.isnan(prepared.arrays[0]), missing)
    expected = np.sqrt(0.1) * (seen - seen.mean()) / seen.std()
    np.testing.assert_allclose(prepared.arrays[0][~missing], expected, atol=1e-6)
    with pytest.raises(InputError, match=r"'holes' must have all its pixels.*of 168 are missing"):
        prepare_images([Image("holes", pixels, allow_missing=True)], "olshausen")
