"""The plot of a study."""

import numpy as np
import pytest
from matplotlib import image

from plm_composer.studies.plot import draw, make_band
from plm_composer.studies.results import Point
from tests.studies.fake_runs import result


def test_files_are_written(tmp_path) -> None:
    results = [result(name, seed, loss + seed / 100) for name, loss in (("a", 3.0), ("b", 2.9)) for seed in (1, 2)]
    png, svg = tmp_path / "results.png", tmp_path / "results.svg"
    assert draw(results, [png, svg])
    pixels = image.imread(png)
    assert pixels.shape[1] > pixels.shape[0] > 400
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 10
    assert "</svg>" in svg.read_text()


def test_nothing_is_drawn_of_nothing(tmp_path) -> None:
    assert not draw([], [tmp_path / "results.png"])
    assert not (tmp_path / "results.png").exists()


def test_a_band_spans_the_seeds_where_all_of_them_are() -> None:
    one = [Point(0, 0, 4.0), Point(10, 100, 3.0), Point(20, 200, 2.0)]
    two = [Point(5, 0, 4.0), Point(15, 100, 3.0)]
    band = make_band([one, two], lambda point: point.seconds)
    assert band.x.tolist() == [5, 10, 15]
    assert band.mean == pytest.approx(np.array([3.75, 3.25, 2.75]))
    assert (band.low[0], band.high[0]) == pytest.approx((3.5, 4.0))


def test_one_validation_a_seed_is_a_point() -> None:
    band = make_band([[Point(10, 100, 3.0)], [Point(12, 100, 2.0)]], lambda point: point.seconds)
    assert (band.x.tolist(), band.mean.tolist(), band.low.tolist()) == ([11], [2.5], [2.0])
