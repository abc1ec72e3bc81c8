import io

import numpy as np
import pytest

from entrosparse.app import plots, row_plots


def test_fields_are_sorted_by_prior_scale_and_each_has_its_own_symmetric_scale():
    dictionary = np.array([[0.1, 3.0, 0.0], [-0.2, 3.0, 0.0], [0.0, 0.0, -5.0], [0.0, 0.0, 0.0]])
    figure = plots.draw_fields(dictionary, [1.0, 3.0, 2.0], (2, 2))
    mosaic = figure.axes[0].images[0].get_array()
    assert figure.axes[0].images[0].get_clim() == (-1, 1)
    np.testing.assert_allclose(mosaic[:2, :2], [[1, 1], [0, 0]])  # λ = 3
    np.testing.assert_allclose(mosaic[:2, 3:5], [[0, 0], [-1, 0]])  # λ = 2
    np.testing.assert_allclose(mosaic[3:5, :2], [[0.5, -1], [0, 0]])  # λ = 1
    assert np.isnan(np.ma.getdata(mosaic)[2]).all()
    assert np.isnan(np.ma.getdata(mosaic)[3:, 3:]).all()


def test_field_of_zeros_is_grey_and_not_a_division_by_zero():
    figure = plots.draw_fields(np.zeros((4, 1)), [1.0], (2, 2))
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), np.zeros((2, 2)))


def test_fields_have_whole_pixels_and_transparent_gaps():
    image = io.BytesIO()
    rng = np.random.default_rng(0)
    plots.draw_fields(rng.normal(size=(64, 9)), np.ones(9), (8, 8)).savefig(image, format="png")
    pixels = pytest.importorskip("PIL.Image").open(image)
    assert pixels.size == (38 * 26, 38 * 26)  # 3 fields of 8 pixels and 2 gaps, 38 times as large
    assert pixels.convert("RGBA").getpixel((8 * 38 + 19, 19))[3] == 0
    assert pixels.convert("RGBA").getpixel((19, 19))[3] == 255


def test_elbo_curve_names_its_unit_and_shades_annealed_epochs():
    figure = plots.draw_elbo([0, 1, 2], [-3.0, 1.0, 2.0], [False, True, False])
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[0, -3], [1, 1], [2, 2]])
    assert "nats" in axes.get_ylabel()
    assert axes.get_xlabel() == "epoch"
    assert [text.get_text().strip() for text in axes.texts] == ["annealed"]
    assert not plots.draw_elbo([0, 1], [0.0, 1.0], [False, False]).axes[0].texts


def test_entropies_have_a_panel_each():
    values = {"posterior": [1.0, 2.0], "prior": [3.0, 4.0], "likelihood": [-5.0, -6.0]}
    figure = plots.draw_entropies([0, 1], values)
    for axes, series in zip(figure.axes, values.values(), strict=True):
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), series)
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "epoch"]


def test_usage_shows_every_field_in_order_and_the_noise():
    scales = np.random.default_rng(0).permutation(np.linspace(0.1, 1, 17))
    (axes,) = plots.draw_usage(scales, 0.2).axes
    usage, noise = axes.lines
    np.testing.assert_allclose(usage.get_xydata(), np.column_stack([range(1, 18), np.linspace(1, 0.1, 17)]))
    assert set(noise.get_ydata()) == {0.2}
    assert axes.get_yscale() == "log"


def test_codes_are_the_largest_with_two_deviations_and_the_numbers_of_their_fields():
    means = np.array([[0.1, -3.0, 2.0], [0.0, 0.0, 1.0]])
    deviations = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    figure = plots.draw_codes(means, deviations, [1.0, 5.0, 7.0], ["patch 1", "patch 4"], n_codes=2)
    first, second = figure.axes
    ((points, _, (bars,)),) = first.containers
    np.testing.assert_array_equal(points.get_ydata(), [-3, 2])
    np.testing.assert_allclose([bar[:, 1] for bar in bars.get_segments()], [[-3.4, -2.6], [1.4, 2.6]])
    assert [label.get_text() for label in first.get_xticklabels()] == ["2", "1"]
    assert second.containers[0][0].get_ydata()[0] == 1
    assert second.get_title(loc="left") == "patch 4"


def test_patches_share_the_scale_of_their_original():
    originals = np.array([[2.0, -4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    deviations = np.array([[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 0.1]])
    figure = plots.draw_patches(originals, originals / 2, deviations, (2, 2))
    first, second, third = (axes.images[0].get_array() for axes in figure.axes[:3])
    np.testing.assert_allclose(first[:, :2], [[0.5, -1], [0, 0]])
    np.testing.assert_allclose(second[:, :2], [[0.25, -0.5], [0, 0]])
    np.testing.assert_allclose(third[:, 3:], deviations[1].reshape(2, 2))
    assert figure.axes[2].images[0].get_clim() == (0.0, 0.4)


def test_bounds_are_drawn_from_top_to_bottom_with_two_errors():
    (axes,) = plots.draw_bounds([-3.0, 1.0], [0.0, 0.25]).axes
    ((points, _, (bars,)),) = axes.containers
    np.testing.assert_array_equal(points.get_xydata(), [[-3, 1], [1, 2]])
    np.testing.assert_allclose([segment[:, 0] for segment in bars.get_segments()], [[-3, -3], [0.5, 1.5]])
    bottom, top = axes.get_ylim()
    assert bottom > top
    assert "nats" in axes.get_xlabel()


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_every_number_of_fields_is_drawn(n):
    mosaic = plots.draw_fields(np.ones((4, n)), np.ones(n), (2, 2)).axes[0].images[0].get_array()
    assert np.count_nonzero(np.isfinite(np.ma.getdata(mosaic))) == 4 * n


def test_drawing_leaves_no_global_figure():
    import sys

    plots.draw_elbo([0], [0.0], [False])
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


# --- rows


def test_atoms_are_sorted_by_prior_scale_and_each_has_its_own_symmetric_scale():
    dictionary = np.array([[0.1, 3.0, 0.0], [-0.2, 1.5, 0.0], [0.0, 0.0, 0.0]])
    axes, bar = row_plots.draw_atoms(dictionary, [1.0, 3.0, 2.0]).axes
    (image,) = axes.images
    np.testing.assert_allclose(image.get_array(), [[1.0, 0.5, 0.0], [0.0, 0.0, 0.0], [0.5, -1.0, 0.0]])
    assert image.get_clim() == (-1, 1)
    assert image.get_extent() == [-0.5, 2.5, 3.5, 0.5]  # Columns count from 0, fields from 1.
    assert ("column" in axes.get_xlabel(), "field" in axes.get_ylabel()) == (True, True)
    assert "largest = 1" in bar.get_ylabel()


@pytest.mark.parametrize("n_rows", [1, 3, 4])
def test_rows_are_drawn_with_their_reconstructions_and_two_deviations(n_rows):
    rng = np.random.default_rng(0)
    original, mean, deviation = rng.normal(size=(3, n_rows, 6))
    deviation, original[0, 2] = np.abs(deviation), np.nan
    titles = [f"row {k}" for k in range(n_rows)]
    figure = row_plots.draw_rows(original, mean, deviation, titles)
    assert [axes.get_title(loc="left") for axes in figure.axes] == titles
    for k, axes in enumerate(figure.axes):
        line, dots = axes.lines
        np.testing.assert_array_equal(line.get_ydata(), mean[k])
        np.testing.assert_array_equal(dots.get_ydata(), original[k])
        low, high = np.sort(axes.collections[0].get_paths()[0].vertices[:, 1])[[0, -1]]
        assert low == pytest.approx((mean[k] - 2 * deviation[k]).min())
        assert high == pytest.approx((mean[k] + 2 * deviation[k]).max())
    assert {text.get_text() for text in figure.axes[0].get_legend().texts} == {"reconstruction", "value"}
