"""What every table shares: the mean over runs, and the rule for what is bold."""

import math

import pytest

from nmer_fast.tables import Cell, mark_best, mean_cell


def best(grid):
    return [[cell.best for cell in line] for line in mark_best(grid)]


def test_the_best_of_each_column():
    grid = [[Cell(0.5), Cell(0.7), Cell(math.nan)], [Cell(0.6), Cell(0.7), Cell(0.1)]]
    assert best(grid) == [[False, True, False], [True, True, False]]
    assert best(grid[:1]) == [[False, False, False]]
    assert mark_best([]) == []


def test_numbers_that_read_the_same_are_tied():
    assert best([[Cell(0.70001)], [Cell(0.70004)], [Cell(0.70006)]]) == [[False], [False], [True]]
    assert best([[Cell(0.70001)], [Cell(0.70004)], [Cell(0.6)]]) == [[True], [True], [False]]
    assert best([[Cell(70.004, digits=2)], [Cell(69.996, digits=2)]]) == [[True], [True]]
    assert best([[Cell(-0.00001)], [Cell(0.00001)], [Cell(-1.0)]]) == [[True], [True], [False]]


def test_texts_are_not_compared():
    grid = [[Cell("9"), Cell(1.0)], [Cell("NMER"), Cell(2.0)]]
    assert best(grid) == [[False, False], [False, True]]
    assert best([[Cell("none")], [Cell(2.0)]]) == [[False], [False]]


def test_the_mean_over_runs():
    assert mean_cell([0.1, 0.2, 0.6, math.nan]) == Cell(
        pytest.approx(0.3), pytest.approx(0.2645751), pytest.approx(math.nan, nan_ok=True)
    )
    one, none = mean_cell([0.4]), mean_cell([])
    assert (one.value, math.isnan(one.std)) == (0.4, True)
    assert math.isnan(none.value)


def test_how_a_cell_is_shown():
    assert [Cell(0.5, digits=digits).text for digits in (0, 2, None)] == ["0", "0.50", "0.5"]
    assert (Cell(-10.0, digits=None).text, Cell(math.nan).text, Cell("x", digits=2).text) == ("-10", "", "x")
    assert Cell(0.25).shown(0.5, "+") == "+0.5000"
