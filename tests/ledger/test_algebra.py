"""Exact algebra: identities are decided, not measured."""

from fractions import Fraction

import pytest

from ntk_momentum.ledger.algebra import dot, plus, scaled, symbols, times


def test_sums_obey_the_rules_of_a_ring_and_rational_powers_add():
    x, y = symbols("x y")
    assert (x + 2 * y) ** 3 == x**3 + 6 * x**2 * y + 12 * x * y**2 + 8 * y**3
    assert x ** Fraction(1, 2) * x ** Fraction(-5, 2) == x**-2 == 1 / x**2
    assert (x - y) * (x + y) - x**2 != -(y**2) + y and (x - x) == 0
    assert (x**3 / y).power("y") == -1 and (x**3 / y).power("z") == 0


def test_a_derivative_along_a_field_is_the_product_rule():
    x, y, t = symbols("x y t")
    assert (x**3 * y).derivative("x") == 3 * x**2 * y
    assert (x * y).along({"x": y, "y": -1 * x}) == y**2 - x**2
    assert (t ** Fraction(3, 2)).derivative("t") == Fraction(3, 2) * t ** Fraction(1, 2)


def test_a_wrong_sign_in_an_energy_is_seen():
    """E = |v|^2/2 + w^2 |x|^2/2 is kept by x'' = -w^2 x, and by no other."""
    x, v, w = symbols("x v w")
    energy = Fraction(1, 2) * (v * v + w**2 * x * x)
    assert energy.along({"x": v, "v": -1 * w**2 * x}) == 0
    assert energy.along({"x": v, "v": w**2 * x}) != 0


def test_vectors_and_matrices_multiply_as_usual():
    a, b, c = symbols("a b c")
    matrix = ((a, b), (b, c))
    assert times(matrix, (a, c)) == (a * a + b * c, b * a + c * c)
    assert dot(plus((a, b), (c, a)), scaled(2, (a, b))) == 2 * (a + c) * a + 2 * (b + a) * b


def test_a_root_of_a_number_is_refused():
    with pytest.raises(ValueError, match="root"):
        (2 * symbols("x")[0]) ** Fraction(1, 2)
