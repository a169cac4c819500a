"""Welch's test against SciPy's, and the correction for many tests."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from minipeft.lab.framework.welch import holm, two_sided, welch, welch_statistic


@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(2, 40), st.floats(0.01, 100), st.floats(-3, 3))
def test_it_equals_scipys(seed, n, m, ratio, shift):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1, n), rng.normal(shift, ratio, m)
    expected = stats.ttest_ind(a, b, equal_var=False)
    got = welch(a, b)
    np.testing.assert_allclose((got.t, got.nu, got.p), (expected.statistic, expected.df, expected.pvalue), rtol=1e-9)
    assert got.difference == pytest.approx(a.mean() - b.mean(), abs=1e-12)


@pytest.mark.parametrize("t", [0.0, 1e-8, 0.5, 2.0, 12.0, 60.0])
@pytest.mark.parametrize("nu", [1.0, 1.7, 9.0, 30.5, 1e3, 1e5])
def test_the_tail_of_students_t(t, nu):
    assert two_sided(t, nu) == pytest.approx(2 * stats.t.sf(t, nu), rel=1e-8, abs=1e-300)


def test_groups_without_spread_differ_for_certain_or_not_at_all():
    assert welch_statistic([1.0, 1.0], [2.0, 2.0, 2.0]) == (-math.inf, 3.0)
    assert welch([1.0, 1.0], [2.0, 2.0, 2.0]).p == 0.0
    assert welch([1.0, 1.0], [1.0, 1.0]).p == 1.0
    assert welch([1.0, 1.0], [0.0, 3.0]).nu == 1.0


def test_a_group_of_one_value_has_no_variance():
    with pytest.raises(ValueError, match="at least 2 values"):
        welch([1.0], [1.0, 2.0])


def test_holm_as_in_a_worked_example():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([]).shape == (0,)
    assert holm([0.9, 0.8]).max() == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_never_lowers_a_p(ps):
    corrected = holm(ps)
    assert (corrected >= np.asarray(ps)).all()
    assert (corrected <= 1).all()
    assert (np.diff(corrected[np.argsort(ps, kind="stable")]) >= 0).all()
