"""The plot of a study: what it shows, and that all of it lies inside the picture."""

import numpy as np
import pytest
from matplotlib import image
from matplotlib.colors import to_hex
from matplotlib.text import Text

from plm_composer.plotting import make_styles
from plm_composer.studies.comparison import summarise
from plm_composer.studies.plot import draw, loss_limits, make_band, make_figure
from plm_composer.studies.results import Point
from plm_composer.studies.schema import load_study
from tests.studies.fake_runs import result, write_study

SEEDS = (1, 2, 3)
LONG = "a_variant_whose_name_is_much_longer_than_any_that_somebody_would_give_it"


def study_of(tmp_path, names, seeds=SEEDS, name="study"):
    variants = {variant: [f"optimizer.lr={index}"] for index, variant in enumerate(names, 1)}
    return load_study(write_study(tmp_path, name, seeds=list(seeds), variants=variants))


def single(variant, seed, loss):
    return result(variant, seed, loss, [(10, 100, loss)])


def several(variant, seed, loss, speed=1.0):
    points = [(k * speed, 100 * k, loss + 3 / k**2 - 3 / 36 + seed / 1000) for k in range(1, 7)]
    return result(variant, seed, points[-1][2], points)


def figure_of(study, results):
    return make_figure(study, summarise(study, results, []), results)


def many(kind, count=30):
    """A study of many variants, some with long names."""
    names = [f"{LONG}_{index}" if index % 7 == 3 else f"variant_{index}" for index in range(count)]
    return names, [kind(name, seed, 3 + index / 100 + seed * index / 5000) for index, name in enumerate(names)
                   for seed in SEEDS]  # fmt: skip


@pytest.mark.parametrize("kind", [single, several])
def test_nothing_is_cut_off(tmp_path, kind) -> None:
    names, results = many(kind)
    study = study_of(tmp_path, names, name="a_study_with_a_name_that_is_as_long_as_those_of_its_variants")
    figure = figure_of(study, results)
    figure.draw_without_rendering()
    shown = {text.get_text(): text.get_window_extent() for text in figure.findobj(Text) if text.get_text()}
    # The reference is the zero line of a forest plot.
    assert set(names[kind is single :]) <= set(shown)
    assert any(study.path.stem in text for text in shown)
    corners = [box.get_points() for box in shown.values()]
    assert np.min(corners) >= 0
    assert (np.max(corners, axis=(0, 1)) <= figure.bbox.size).all()
    path = tmp_path / "results.png"
    assert draw(study, summarise(study, results, []), results, [path])
    pixels = image.imread(path)
    for edge in (pixels[:5], pixels[-5:], pixels[:, :5], pixels[:, -5:]):
        assert (edge == 1).all()


@pytest.mark.parametrize("kind", [single, several])
def test_a_figure_grows_with_its_variants_and_its_axes_keep_their_size(tmp_path, kind) -> None:
    names, results = many(kind)
    small = figure_of(study_of(tmp_path, names[:3]), [found for found in results if found.variant in names[:3]])
    large = figure_of(study_of(tmp_path, names), results)
    assert large.get_figheight() > small.get_figheight() + 1
    widths = [figure.axes[0].get_window_extent().width for figure in (small, large)]
    assert widths[0] == pytest.approx(widths[1])


def test_one_validation_a_run_gives_a_forest_plot_of_the_tables_differences(tmp_path) -> None:
    study = study_of(tmp_path, ["base", "worse", "unclear", "better"])
    losses = {
        "base": (3.0, 3.1, 3.2),
        "worse": (3.1, 3.21, 3.3),
        "unclear": (3.1, 3.1, 3.1),
        "better": (2.9, 2.99, 3.1),
    }
    results = [single(name, seed, loss) for name in losses for seed, loss in zip(SEEDS, losses[name], strict=True)]
    summaries = summarise(study, results, [])
    (axes,) = figure_of(study, results).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["worse", "unclear", "better"]
    assert axes.yaxis_inverted()  # The first row of the table is at the top.
    lines = [line for line in axes.get_lines() if line.get_marker() == "|"]
    means = [line for line in axes.get_lines() if line.get_marker() == "o"]
    for row, (line, mean, summary) in enumerate(zip(lines, means, summaries[1:], strict=True)):
        assert line.get_xdata().tolist() == [summary.difference.low, summary.difference.high]
        assert (mean.get_xdata().tolist(), mean.get_ydata().tolist()) == ([summary.difference.mean], [row])
    assert len({to_hex(line.get_color()) for line in lines}) == 3
    assert any(set(line.get_xdata()) == {0} for line in axes.get_lines())
    assert axes.get_xlabel().startswith("validation loss minus base, nats")
    entries = [text.get_text() for text in axes.get_legend().get_texts()]
    assert entries == ["interval below 0: better", "interval above 0: worse", "interval includes 0"]


def test_differences_of_few_seeds_are_shown_for_what_they_are(tmp_path) -> None:
    study = study_of(tmp_path, ["base", "one", "two", "none"])
    results = [
        single(name, seed, 3 + seed / 100) for name, count in (("base", 3), ("one", 1)) for seed in SEEDS[:count]
    ]
    results += [single("two", 1, 3.0), single("two", 2, 3.1)]
    figure = figure_of(study, results)
    (axes,) = figure.axes
    (numbers,) = axes.child_axes
    one, two, none = [label.get_text() for label in numbers.get_yticklabels()]
    assert one == "+0.0000, 1 of 3 seeds"
    assert two.endswith("†), 2 of 3 seeds")
    assert none == "no seed in common"
    assert "† two pairs" in axes.get_legend().get_title().get_text()
    assert "one seed: no interval" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_several_validations_a_run_give_curves_with_bands(tmp_path) -> None:
    study = study_of(tmp_path, ["base", "other"])
    results = [several(name, seed, loss) for name, loss in (("base", 3.0), ("other", 2.9)) for seed in SEEDS]
    figure = figure_of(study, results)
    assert [axes.get_xlabel() for axes in figure.axes] == ["training time, seconds", "tokens trained"]
    assert figure.axes[0].get_ylabel() == "validation loss, nats"
    for axes in figure.axes:
        assert [line.get_label() for line in axes.get_lines()] == ["base", "other"]
        for line, filled in zip(axes.get_lines(), axes.collections, strict=True):
            found = [run for run in results if run.variant == line.get_label()]
            ends = [run.curve[-1].loss for run in found]
            assert line.get_ydata()[-1] == np.median(ends)
            (outline,) = filled.get_paths()
            heights = outline.vertices[outline.vertices[:, 0] == line.get_xdata()[-1], 1]
            assert (heights.min(), heights.max()) == (min(ends), max(ends))


def test_no_final_point_lies_outside_the_frame(tmp_path) -> None:
    names = ["base", "slow", "short"]
    study = study_of(tmp_path, names)
    # One is ten times as slow as the others, one ends with the largest loss and a tenth of the tokens.
    results = [run for seed in SEEDS for run in (several("base", seed, 2.9), several("slow", seed, 3.0, speed=10))]
    results += [result("short", seed, 3.4, [(0.2, 30, 6.0), (0.6, 60, 3.5 + seed / 10)]) for seed in SEEDS]
    figure = figure_of(study, results)
    for axes in figure.axes:
        assert len(axes.get_lines()) == len(names)
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        for line in axes.get_lines():
            assert left < line.get_xdata()[-1] < right
            ends = [run.curve[-1].loss for run in results if run.variant == line.get_label()]
            assert bottom < min(ends) and max(ends) < top
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_limits_leave_out_the_steep_start() -> None:
    curve = [Point(share, 100 * share, loss) for share, loss in ((1, 9.0), (2, 5.0), (5, 3.2), (10, 3.0))]
    bottom, top = loss_limits([make_band([curve])])
    assert 2.9 < bottom < 3.0 and 3.2 < top < 3.3


def test_medians_are_the_tables(tmp_path) -> None:
    study = study_of(tmp_path, ["base", "other"])
    speeds = {1: 1.0, 2: 1.2, 3: 30.0}  # The machine was busy during the third.
    results = [
        several(name, seed, loss, speeds[seed]) for name, loss in (("base", 3.0), ("other", 2.9)) for seed in SEEDS
    ]
    target = 3.1
    summaries = summarise(study, results, [], target)
    figure = figure_of(study, results)
    for summary, line in zip(summaries, figure.axes[0].get_lines(), strict=True):
        seconds, loss = line.get_xdata(), line.get_ydata()
        times = [run.training_seconds for run in results if run.variant == summary.variant]
        assert seconds[-1] == np.median(times) < np.mean(times)
        assert np.interp(-target, -loss, seconds) == pytest.approx(summary.outcome.target.seconds, rel=0.02)


def test_seeds_with_different_numbers_of_validations_are_aligned_at_their_ends() -> None:
    long = [Point(0, 0, 4.0), Point(10, 100, 3.0), Point(20, 200, 2.0)]
    short = [Point(5, 0, 4.0), Point(15, 100, 3.0)]
    band = make_band([long, short])
    assert band.seconds.tolist() == [2.5, 10, 17.5]
    assert band.tokens.tolist() == [0, 75, 150]
    assert band.median.tolist() == [4.0, 3.25, 2.5]
    assert (band.low.tolist(), band.high.tolist()) == ([4.0, 3.0, 2.0], [4.0, 3.5, 3.0])


def test_a_variant_with_one_validation_among_curves_has_its_range(tmp_path) -> None:
    study = study_of(tmp_path, ["base", "single"])
    results = [several("base", seed, 2.9) for seed in SEEDS] + [single("single", seed, 3 + seed / 10) for seed in SEEDS]
    for axes in figure_of(study, results).axes:
        *_, bar = axes.collections
        (path,) = bar.get_paths()
        assert path.vertices[:, 1].tolist() == [3.1, 3.3]


def test_no_two_variants_look_the_same(tmp_path) -> None:
    assert len({tuple(style.items()) for style in make_styles(216)}) == 216
    names, results = many(several)
    for axes in figure_of(study_of(tmp_path, names), results).axes:
        looks = {(to_hex(line.get_color()), line.get_linestyle(), line.get_marker()) for line in axes.get_lines()}
        assert len(looks) == len(names)


def test_the_legend_is_in_the_order_of_the_table(tmp_path) -> None:
    names, results = many(several)
    figure = figure_of(study_of(tmp_path, names), results[::-1])
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == names


def test_the_same_results_give_the_same_files(tmp_path) -> None:
    study = study_of(tmp_path, ["a", "b"])
    results = [single(name, seed, 3.0) for name in "ab" for seed in SEEDS]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        paths = [tmp_path / folder / "results.png", tmp_path / folder / "results.svg"]
        assert draw(study, summarise(study, results, []), results, paths)
    for name in ("results.png", "results.svg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert "</svg>" in (tmp_path / "one" / "results.svg").read_text()


def test_nothing_is_drawn_of_nothing(tmp_path) -> None:
    study = study_of(tmp_path, ["a", "b"])
    for results in ([], [single("a", 1, 3.0)], [single("a", 1, 3.0), single("b", 2, 3.0)]):
        assert not draw(study, summarise(study, results, []), results, [tmp_path / "results.png"])
    assert not (tmp_path / "results.png").exists()
