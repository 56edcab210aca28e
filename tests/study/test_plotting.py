"""The house style: fits are exact on exact powers, nothing global changes, colours stay apart."""

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ntk_momentum.study import plotting, report


def test_power_law_is_exact_on_a_power():
    x = np.array([64.0, 128.0, 256.0, 1024.0])
    slope, half, prefactor = plotting.power_law(x, np.stack([3 * x**-0.5, 6 * x**-0.5]))
    assert (slope, half, prefactor) == pytest.approx((-0.5, 0.0, np.sqrt(18)), abs=1e-10)


def test_power_law_interval_covers_the_true_slope_as_often_as_it_says():
    x, rng = np.array([1.0, 4.0, 16.0, 64.0]), np.random.default_rng(0)
    draws = [
        plotting.power_law(x, x**0.5 * np.exp(0.3 * rng.standard_normal((4, 4))))
        for _ in range(400)
    ]
    covered = np.mean([abs(slope - 0.5) <= half for slope, half, _ in draws])
    assert 0.92 < covered < 0.98


def test_one_seed_has_no_interval():
    _, half, _ = plotting.power_law([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0])
    assert np.isnan(half)
    assert plotting.with_interval(0.5, half) == "0.50"


def test_three_widths_tell_no_slope():
    slope, half, _ = plotting.power_law([1.0, 2.0, 4.0], [[1.0, 2.0, 4.0]] * 2)
    assert plotting.with_interval(slope, half) == "too few points to tell"


@pytest.mark.parametrize(
    ("rows", "columns", "squeeze"), [(1, 3, True), (2, 2, True), (1, 1, False)]
)
def test_stacked_panels_are_those_side_by_side_one_below_the_other(rows, columns, squeeze):
    options = {"squeeze": squeeze, "sharey": "row"}
    _, beside = plotting.panels(rows, columns, **options)
    with plotting.stacked():
        figure, below = plotting.panels(rows, columns, **options)
    assert np.shape(beside) == np.shape(below) and figure.get_size_inches()[0] < 4
    places = [axes.get_position().x0 for axes in np.ravel(below)]
    assert np.ptp(places) == 0
    np.ravel(below)[0].set_ylim(3, 5)
    assert np.ravel(below)[-1].get_ylim() == ((3, 5) if rows == 1 else (0, 1))


def test_drawing_changes_no_global_setting_and_keeps_the_style():
    before = dict(matplotlib.rcParams)

    @plotting.house_style
    def draw():
        figure, axes = plotting.panels(1, 2)
        plotting.band(
            axes[0], [1, 2], [[1.0, 2.0], [2.0, 3.0]], color=plotting.COLORS["nesterov"], label="a"
        )
        plotting.band(axes[1], [1, 2], [[1.0, 2.0]], color=plotting.THEORY)
        axes[1].set(yscale="log")
        plotting.log_ticks(axes[1].yaxis)
        return figure

    figure = draw()
    assert dict(matplotlib.rcParams) == before
    assert not figure.axes[0].spines["top"].get_visible()
    assert (
        figure.axes[0].xaxis.get_major_ticks()[0].label1.get_fontsize()
        == plotting.STYLE["xtick.labelsize"]
    )


def test_band_is_the_range_over_seeds_around_the_median():
    _, axes = plotting.panels(1, 1)
    plotting.band(axes, [0.0, 1.0], [[0.0, 1.0], [1.0, 5.0], [4.0, 2.0]], color="black")
    assert axes.lines[0].get_ydata().tolist() == [1.0, 2.0]
    corners = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == (0.0, 5.0)


def test_shades_darken_towards_the_full_colour():
    tones = [sum(to_rgb(tone)) for tone in plotting.shades("#0072b2", 4)]
    assert tones == sorted(tones, reverse=True)
    assert plotting.shades("#0072b2", 4)[-1] == plotting.shades("#0072b2", 1)[0] == "#0072b2"


def test_flows_in_one_panel_are_told_apart_without_colours_and_stacked_panels_without_neighbours():
    x = [1.0, 2.0, 3.0, 4.0]

    @plotting.house_style
    def draw():
        figure, grid = plotting.panels(2, 2)
        for color in list(plotting.COLORS.values())[:2]:
            grid[0, 0].plot(x, x, color=color, label=color)
            grid[0, 1].plot(x, x, "o", color=color)
            grid[0, 1].plot(x, x, color=color)  # through the points: none of its own
        grid[0, 0].plot(x, x, color=plotting.THEORY)
        for axes in plotting.labelled(grid[0]):
            axes.set_ylabel("loss")
        plotting.legend_below(figure, grid[0, 0].get_legend_handles_labels(), 2)
        return figure

    with plotting.stacked():
        figure = draw()
    marks = [[line.get_marker() for line in axes.lines] for axes in figure.axes]
    assert marks[:2] == [["o", "s", "None"], ["o", "None", "s", "None"]]
    assert [line.get_marker() for line in figure.legends[0].get_lines()] == ["o", "s"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "loss", "", ""]


def test_a_discrete_twin_has_the_colour_of_its_flow():
    assert plotting.flow_color("gradient_descent eta=0.1") == plotting.flow_color("gradient_flow")
    assert plotting.flow_color("heavy_ball b=0.2") == plotting.flow_color("heavy_ball")


def test_markers_of_a_curve_that_oscillates_are_evenly_spaced_along_the_axis():
    axes = Figure().subplots()
    k = np.arange(201)
    (one,) = axes.plot(k, np.cos(2 * k))
    at = k[plotting._spaced(axes, one, 0.1, 0.2)]
    assert len(at) == 5 and np.all(np.abs(np.diff(at) - 44) <= 1)  # margins: 220 in all


@pytest.mark.parametrize("name", ["paper", "talk"])
def test_a_style_for_users_has_the_colours_and_manners_of_the_house(name):
    import matplotlib.style

    with matplotlib.style.context(f"ntk_momentum.{name}"):
        found = dict(matplotlib.rcParams)
    colors = [f"#{color.strip('#')}" for color in found["axes.prop_cycle"].by_key()["color"]]
    assert tuple(colors) == plotting.CYCLE
    sizes = {key for key in plotting.STYLE if "size" in key or "width" in key or "dpi" in key}
    manners = {key: plotting.STYLE[key] for key in set(plotting.STYLE) - sizes if key in found}
    told = {"axes.spines.top", "axes.grid", "legend.frameon", "mathtext.fontset", "pdf.fonttype"}
    assert {key: found[key] for key in told} == {key: manners[key] for key in told}


def test_an_experiments_figure_takes_the_users_style():
    import matplotlib.style

    def figure():
        found, (left, _) = plotting.panels(1, 2)
        left.set_xlabel("step")
        return found

    drawn = {}
    for name in ("paper", "talk"):
        with matplotlib.style.context(f"ntk_momentum.{name}"):
            one = plotting.house_style(figure)()
            wanted = matplotlib.rcParams["figure.figsize"][0], matplotlib.rcParams["axes.labelsize"]
            assert (one.get_figwidth(), one.axes[0].xaxis.label.get_size()) == wanted
        drawn[name] = one.axes[0].get_subplotspec().get_gridspec().get_geometry()
    assert drawn == {"paper": (2, 1), "talk": (1, 2)}
    assert plotting.house_style(figure)().get_figwidth() == 7.4


def test_white_upon_a_map_stays_white_on_a_dark_page(tmp_path):
    path = tmp_path / "map.svg"
    path.write_text(
        f'<svg viewBox="0 0 9 9"><path fill="{plotting.ON_MAP}" stroke="#ffffff"/></svg>'
    )
    text = report.inline(path, "map")
    assert plotting.ON_MAP in text and 'stroke="var(--paper)"' in text
