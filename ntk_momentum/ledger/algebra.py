"""Exact algebra for the derivations of the ledger: sums of monomials with rational coefficients and
rational powers, (3/2) lambda0^{-1/2} n^2 for example.

An identity between two such sums is decided, not measured: they are equal iff their coefficients
are. Enough for the identities of the Lyapunov functions, whose two sides are polynomials in the
entries of Delta, Delta' and H, and for the chains of inequalities that end in a width.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

Rational = int | Fraction
Monomial = frozenset[tuple[str, Fraction]]


class Sum:
    """A finite sum of monomials: {powers of the symbols: coefficient}.

    Examples:
        >>> x, y = symbols("x y")
        >>> (x + y) * (x - y) == x**2 - y**2
        True
    """

    def __init__(self, terms: Mapping[Monomial, Rational]):
        self.terms = {powers: Fraction(k) for powers, k in terms.items() if k}

    def __add__(self, other: Sum | Rational) -> Sum:
        terms = dict(self.terms)
        for powers, k in _sum(other).terms.items():
            terms[powers] = terms.get(powers, Fraction(0)) + k
        return Sum(terms)

    def __mul__(self, other: Sum | Rational) -> Sum:
        terms: dict[Monomial, Fraction] = {}
        for a, k in self.terms.items():
            for b, l in _sum(other).terms.items():
                powers = dict(a)
                for name, power in b:
                    powers[name] = powers.get(name, Fraction(0)) + power
                product = frozenset((name, power) for name, power in powers.items() if power)
                terms[product] = terms.get(product, Fraction(0)) + k * l
        return Sum(terms)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Sum:
        return self * -1

    def __sub__(self, other: Sum | Rational) -> Sum:
        return self + -_sum(other)

    def __rsub__(self, other: Sum | Rational) -> Sum:
        return _sum(other) - self

    def __pow__(self, power: Rational) -> Sum:
        """Whole powers of any sum; other powers of one monomial with coefficient 1."""
        if isinstance(power, int) and power >= 0:
            result = _sum(1)
            for _ in range(power):
                result = result * self
            return result
        ((powers, k),) = self.terms.items()
        whole = Fraction(power).denominator == 1
        if k != 1 and not whole:
            raise ValueError("a coefficient has no rational root")
        coefficient = k ** int(power) if whole else k
        return Sum({frozenset((name, p * power) for name, p in powers): coefficient})

    def __truediv__(self, other: Sum | Rational) -> Sum:
        return self * _sum(other) ** -1

    def __rtruediv__(self, other: Sum | Rational) -> Sum:
        return _sum(other) / self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Sum, int, Fraction)) and self.terms == _sum(other).terms

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def derivative(self, name: str) -> Sum:
        """The partial derivative by a symbol."""
        terms: dict[Monomial, Fraction] = {}
        for powers, k in self.terms.items():
            by_name = dict(powers)
            power = by_name.pop(name, Fraction(0))
            if power:
                left = {**by_name, name: power - 1} if power != 1 else by_name
                terms[frozenset(left.items())] = k * power
        return Sum(terms)

    def along(self, field: Mapping[str, Sum]) -> Sum:
        """The derivative by time when each named symbol moves as the field says."""
        return sum((self.derivative(name) * rate for name, rate in field.items()), start=_sum(0))

    def power(self, name: str) -> Fraction:
        """The power of a symbol in a single monomial."""
        ((powers, _),) = self.terms.items()
        return dict(powers).get(name, Fraction(0))


def _sum(value: Sum | Rational) -> Sum:
    return value if isinstance(value, Sum) else Sum({frozenset(): value})


def symbols(names: str) -> tuple[Sum, ...]:
    """One sum for each of the names."""
    return tuple(Sum({frozenset({(name, Fraction(1))}): 1}) for name in names.split())


def dot(left: tuple[Sum, ...], right: tuple[Sum, ...]) -> Sum:
    """The inner product of two vectors."""
    return sum((a * b for a, b in zip(left, right, strict=True)), start=_sum(0))


def times(matrix: tuple[tuple[Sum, ...], ...], vector: tuple[Sum, ...]) -> tuple[Sum, ...]:
    """A matrix, by rows, times a vector."""
    return tuple(dot(row, vector) for row in matrix)


def plus(*vectors: tuple[Sum, ...]) -> tuple[Sum, ...]:
    """The sum of vectors."""
    return tuple(sum(entries, start=_sum(0)) for entries in zip(*vectors, strict=True))


def scaled(factor: Sum | Rational, vector: tuple[Sum, ...]) -> tuple[Sum, ...]:
    """A multiple of a vector."""
    return tuple(factor * entry for entry in vector)
