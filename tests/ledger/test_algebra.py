"""Exact algebra: identities are decided, not measured."""

from fractions import Fraction

import pytest

from ntk_momentum.ledger import algebra, entries
from ntk_momentum.ledger.algebra import dot, plus, scaled, symbols, times
from ntk_momentum.ledger.claims.setting import Setting


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


DERIVATIONS = ("eq-a.7", "eq-b.4", "displacement-chain-a", "displacement-chain-b", "width-thm-2")


def test_every_step_of_the_derivations_agrees_with_sympy(monkeypatch):
    """What the derivations add, multiply, differentiate and compare is done again by SymPy."""
    sympy = pytest.importorskip("sympy")
    steps = []

    def expression(value):
        if not isinstance(value, algebra.Sum):
            return sympy.Rational(value)
        return sympy.Add(
            *(
                sympy.Rational(k)
                * sympy.Mul(
                    *(
                        sympy.Symbol(name, positive=True) ** sympy.Rational(power)
                        for name, power in powers
                    )
                )
                for powers, k in value.terms.items()
            )
        )

    def agrees(name, again):
        plain = getattr(algebra.Sum, name)

        def both(one, *others):
            found = plain(one, *others)
            expected = again(*map(expression, (one, *others)))
            if isinstance(found, bool):
                assert found is (sympy.expand(expected) == 0)
            else:
                assert sympy.expand(expression(found) - expected) == 0
            steps.append(name)
            return found

        monkeypatch.setattr(algebra.Sum, name, both)

    for name, again in {
        "__add__": lambda a, b: a + b,
        "__mul__": lambda a, b: a * b,
        "__pow__": lambda a, b: a**b,
        "__eq__": lambda a, b: a - b,
    }.items():
        agrees(name, again)
    plain = algebra.Sum.derivative

    def derivative(one, name):
        found = plain(one, name)
        expected = sympy.diff(expression(one), sympy.Symbol(name, positive=True))
        assert sympy.expand(expression(found) - expected) == 0
        steps.append("derivative")
        return found

    monkeypatch.setattr(algebra.Sum, "derivative", derivative)
    setting = Setting("smoke")
    for name in DERIVATIONS:
        assert any(
            form.basis == "derivation"
            for form in entries()[name].run(setting)
            if hasattr(form, "basis")
        )
    assert {"__add__", "__mul__", "__pow__", "__eq__", "derivative"} == set(steps)
