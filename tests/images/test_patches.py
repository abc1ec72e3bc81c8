import tracemalloc

import numpy as np
import pytest
import torch

from entrosparse.errors import InputError
from entrosparse.images import Patches, average_patches, random_patches, split_patches, tile_patches


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.random(shape).astype(np.float32) for shape in [(9, 12), (20, 7), (6, 6)]]


def sliced(images, patch_size, positions):
    return np.array(
        [images[i][r : r + patch_size, c : c + patch_size].ravel() for i, r, c in positions], dtype=np.float32
    )


@pytest.mark.parametrize("patch_size", [2, 5, 6])
def test_patches_equal_slices(images, patch_size):
    patches = random_patches(images, patch_size, 200, rng=1)
    expected = sliced(images, patch_size, patches.positions)
    assert len(patches) == 200
    assert patches.n_features == patch_size**2
    for indices in (
        slice(None),
        slice(5, 90, 7),
        np.array([3, 3, 199, 0, -1]),
        np.arange(200) % 3 == 0,
        [4, 2],
    ):
        got = patches[indices]
        np.testing.assert_array_equal(got, expected[indices])
        assert got.dtype == np.float32
        assert got.flags.c_contiguous
        assert got.flags.owndata or got.base.flags.owndata
    np.testing.assert_array_equal(patches[7], expected[7])
    np.testing.assert_array_equal(np.array(list(patches)), expected)
    assert patches[:0].shape == (0, patch_size**2)


def test_patches_take_tensors(images):
    patches = random_patches(images, 4, 50, rng=1)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))[:20]
    np.testing.assert_array_equal(patches[order], patches[order.numpy()])


def test_result_is_a_copy(images):
    patches = random_patches(images, 4, 10, rng=1)
    before = patches[:].copy()
    patches[:][...] = 0
    images[0][...] = 0
    np.testing.assert_array_equal(patches[:], before)


def test_first_and_last_positions(images):
    corners = np.array([[0, 0, 0], [0, 4, 7], [1, 15, 2], [2, 1, 1]])
    np.testing.assert_array_equal(Patches(images, 5, corners)[:], sliced(images, 5, corners))


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_images_of_other_types_and_layouts(dtype):
    image = (np.random.default_rng(0).random((12, 9)) * 200).astype(dtype).T[:, ::2]
    patches = tile_patches([image], 3)
    np.testing.assert_array_equal(patches[:], sliced([image], 3, patches.positions))


def test_all_positions_are_equally_likely(images):
    """Each admissible position, the last row and column and the smallest image among them, has its share."""
    patch_size, n_patches = 5, 60_000
    patches = random_patches(images, patch_size, n_patches, np.random.default_rng(2))
    admissible = {
        (i, r, c)
        for i, image in enumerate(images)
        for r in range(image.shape[0] - patch_size + 1)
        for c in range(image.shape[1] - patch_size + 1)
    }
    found, counts = np.unique(patches.positions, axis=0, return_counts=True)
    assert {tuple(position) for position in found.tolist()} == admissible
    expected = n_patches / len(admissible)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = len(admissible) - 1
    assert abs(chi_square - freedom) < 4 * np.sqrt(2 * freedom)


def test_seeds(images):
    def draw(rng):
        return random_patches(images, 3, 40, rng).positions

    np.testing.assert_array_equal(draw(3), draw(np.random.default_rng(3)))
    assert (draw(3) != draw(4)).any()
    generator = np.random.default_rng(3)
    assert (draw(generator) != draw(generator)).any()


def test_a_split_draws_both_parts_from_streams_of_their_own(images):
    streams = np.random.SeedSequence(3).spawn(2)
    expected = [
        random_patches(images, 3, n_patches, np.random.default_rng(stream)).positions
        for n_patches, stream in zip((40, 20), streams, strict=True)
    ]
    train, heldout = split_patches(images, 3, 40, 20, seed=3)
    np.testing.assert_array_equal(train.positions, expected[0])
    np.testing.assert_array_equal(heldout.positions, expected[1])
    np.testing.assert_array_equal(train[:], sliced(images, 3, expected[0]))
    np.testing.assert_array_equal(split_patches(images, 3, 7, 20, seed=3)[1].positions, expected[1])
    assert (split_patches(images, 3, 40, 20, seed=4)[0].positions != expected[0]).any()


@pytest.mark.parametrize(
    ("n_train", "n_heldout", "seed", "message"),
    [(0, 5, 0, "'n_patches'"), (5, 0, 0, "'n_patches'"), (5, 5, -1, "'seed'"), (5, 5, None, "'seed'")],
)
def test_a_split_of_bad_numbers(images, n_train, n_heldout, seed, message):
    with pytest.raises(InputError, match=message):
        split_patches(images, 3, n_train, n_heldout, seed)


def test_tiles_cover_without_overlap(images):
    patches = tile_patches(images, 3)
    assert len(patches) == 3 * 4 + 6 * 2 + 2 * 2
    first = patches[:12].reshape(3, 4, 3, 3).swapaxes(1, 2).reshape(9, 12)
    np.testing.assert_array_equal(first, images[0])
    second = patches[12:24].reshape(6, 2, 3, 3).swapaxes(1, 2).reshape(18, 6)
    np.testing.assert_array_equal(second, images[1][:18, :6])


def test_tile_as_large_as_the_image():
    image = np.arange(16.0).reshape(4, 4)
    np.testing.assert_array_equal(tile_patches([image], 4)[:], image.reshape(1, 16))


# --- tiles that overlap, and images of them


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_tiles_with_a_stride_hold_every_pixel_and_their_means_are_the_images(images, stride):
    tiles = tile_patches(images, 4, stride)
    again = average_patches(tiles[:], tiles.positions, [image.shape for image in images])
    for found, image in zip(again, images, strict=True):
        np.testing.assert_allclose(found, image, rtol=1e-6)
    rows = np.unique(tiles.positions[tiles.positions[:, 0] == 0, 1])
    assert rows[0] == 0
    assert rows[-1] == 9 - 4
    assert (np.diff(rows)[:-1] == stride).all()
    assert np.diff(rows)[-1] <= stride
    assert len({tuple(position) for position in tiles.positions.tolist()}) == len(tiles)


def test_a_pixel_has_the_mean_of_the_patches_that_hold_it():
    rng = np.random.default_rng(0)
    positions = np.array([[0, 0, 0], [1, 2, 1], [0, 1, 1], [0, 0, 0], [1, 1, 0]])
    patches = rng.normal(size=(5, 4))
    shapes = [(4, 3), (4, 5)]
    expected = [[[[] for _ in range(width)] for _ in range(height)] for height, width in shapes]
    for patch, (image, row, column) in zip(patches, positions, strict=True):
        for k, value in enumerate(patch):
            expected[image][row + k // 2][column + k % 2].append(value)
    for found, wanted in zip(average_patches(patches, positions, shapes), expected, strict=True):
        means = [[np.mean(values) if values else np.nan for values in line] for line in wanted]
        np.testing.assert_allclose(found, means)


@pytest.mark.parametrize("stride", [0, -1, 2.5, "2", 4])
def test_bad_stride(images, stride):
    with pytest.raises(InputError, match="'stride' parameter must be"):
        tile_patches(images, 3, stride)


@pytest.mark.parametrize(
    ("patches", "positions", "shapes", "message"),
    [
        (np.zeros((2, 5)), np.zeros((2, 3), int), [(4, 4)], "'patches'.*shape"),
        (np.zeros((2, 4)), np.zeros((3, 3), int), [(4, 4)], "'patches'.*n = 3 positions"),
        (np.zeros((2, 4)), np.full((2, 3), 1), [(4, 4)], "'positions'.*patch 0 is at"),
        (np.zeros((1, 4)), np.array([[0, 3, 0]]), [(4, 4)], "'positions'.*patch 0 is at"),
        (np.zeros((1, 25)), np.array([[0, 0, 0]]), [(4, 4)], "'positions'.*patch 0 is at"),
        (np.zeros((0, 4)), np.zeros((0, 3), int), [], "'shapes'"),
    ],
)
def test_patches_that_cannot_be_averaged(patches, positions, shapes, message):
    with pytest.raises(InputError, match=message):
        average_patches(patches, positions, shapes)


def test_patches_are_never_all_held():
    """200,000 patches of 16 x 16 would be 205 MB; their positions are 5 MB."""
    image = np.zeros((64, 64), dtype=np.float32)
    tracemalloc.start()
    patches = random_patches([image], 16, 200_000, rng=0)
    patches[:512]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def test_image_smaller_than_patch(images):
    with pytest.raises(InputError, match=r"'patch_size'.*image 2 is 6 x 6 pixels, a patch 7 x 7"):
        random_patches(images, 7, 10, rng=0)
    with pytest.raises(InputError, match="image 1 is 20 x 7"):
        tile_patches(images, 8)


@pytest.mark.parametrize("patch_size", [1, 0, -3, 2.5, "8", None])
def test_bad_patch_size(images, patch_size):
    for make in (
        lambda: random_patches(images, patch_size, 5, rng=0),
        lambda: tile_patches(images, patch_size),
    ):
        with pytest.raises(InputError, match="'patch_size' parameter must be a whole number >= 2"):
            make()


@pytest.mark.parametrize("n_patches", [0, -1, 1.5])
def test_bad_n_patches(images, n_patches):
    with pytest.raises(InputError, match="'n_patches'"):
        random_patches(images, 3, n_patches, rng=0)


@pytest.mark.parametrize("rng", ["seed", -1, 1.5])
def test_bad_rng(images, rng):
    with pytest.raises(InputError, match="'rng'"):
        random_patches(images, 3, 5, rng=rng)


@pytest.mark.parametrize("bad", [[], [np.zeros(5)], [np.zeros((5, 5, 3))]])
def test_bad_images(bad):
    with pytest.raises(InputError, match="'images'"):
        tile_patches(bad, 3)


@pytest.mark.parametrize(
    "position", [[3, 0, 0], [-1, 0, 0], [0, -1, 0], [0, 0, -1], [0, 5, 0], [0, 0, 8], [2, 2, 0], [1, 0, 3]]
)
def test_positions_outside(images, position):
    with pytest.raises(InputError, match=r"'positions'.*patch 1 is at"):
        Patches(images, 5, np.array([[0, 0, 0], position]))


@pytest.mark.parametrize("positions", [np.zeros((4, 2), int), np.zeros(3, int), np.zeros((4, 3))])
def test_positions_of_the_wrong_kind(images, positions):
    with pytest.raises(InputError, match=r"'positions'.*shape \(n, 3\)"):
        Patches(images, 5, positions)


def test_index_out_of_range(images):
    with pytest.raises(IndexError):
        random_patches(images, 3, 5, rng=0)[5]
