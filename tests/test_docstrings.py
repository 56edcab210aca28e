"""Every public name says what it is, with its equation, its arguments and an example that runs."""

import contextlib
import doctest
import inspect
import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm

# What neither the paper nor the literature has a formula for.
OF_THIS_PACKAGE = {"InputError", "MissingPackage", "Numerics", "open_results", "plan_ntk"} | {
    "run_experiment"
}
NUMBER = re.compile(
    r"\((?:[1-4]|[A-C])\.\d+\)|\b(?:19|20)\d\d\)|[Ss]ection \d|(?:Theorem|Fact)s? \d"
)
HEADINGS = ("Args", "Returns", "Raises", "Examples")


def sections(doc):
    """The parts of a docstring in Google style; the text before the first heading is ""."""
    parts = re.split(rf"^({'|'.join(HEADINGS)}):$", inspect.cleandoc(doc), flags=re.MULTILINE)
    return dict(zip(["", *parts[1::2]], parts[::2], strict=True))


def arguments(thing):
    """The names that a caller may give."""
    if isinstance(thing, type) and issubclass(thing, Exception):
        return []
    return [p.name.lstrip("*") for p in inspect.signature(thing).parameters.values()]


@pytest.mark.parametrize("name", nm.__all__)
def test_a_public_name_is_explained(name):
    thing = getattr(nm, name)
    found = sections(thing.__doc__)
    text = found[""]
    assert re.match(r"\S.*[.](\n|$)|\S.*\n\S.*[.](\n|$)", text), "begins with one sentence"
    assert "Examples" in found
    assert name in OF_THIS_PACKAGE or NUMBER.search(thing.__doc__), "no equation, no source"
    if not isinstance(thing, type):
        assert "Returns" in found
    described = re.findall(r"^    \*{0,2}(\w+): ", found.get("Args", ""), flags=re.MULTILINE)
    assert described == arguments(thing)
    if described:
        assert "Raises" in found


@pytest.mark.slow
@pytest.mark.parametrize("name", nm.__all__)
def test_the_example_of_a_public_name_runs(name):
    names = {"nm": nm, "jax": jax, "jnp": jnp, "np": np}
    doc = inspect.cleandoc(getattr(nm, name).__doc__)
    test = doctest.DocTestParser().get_doctest(doc, names, name, None, None)
    assert test.examples
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        failed = doctest.DocTestRunner().run(test, out=said.write).failed
    assert not failed, said.getvalue()
