"""What the sources say can be named is what the running code knows, and no JAX is needed to say
it."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ntk_momentum import words

ROOT = Path(__file__).resolve().parents[1]

WRONG = [
    "reproduc",
    "run decya",
    "run three_flows --sise smoke",
    "reproduce --only decya",
    "verify --claims lemm-6",
    "verify --claims lemma-6 --size ful",
    "verify --data didgits",
    "sweep --flows heavyball",
    "sweep --flows heavy_ball:c=1",
    "sweep --flows hessian_damped",
    "sweep --loss hubr",
    "sweep --activation rel",
    "sweep --solver laz",
    "sweep --readouts los",
    "sweep --data mnst:",
    "sweep --widths many",
    "sweep --model no.py:make",
    "table nowhere",
    "plot nowhere",
    "export nowhere",
    "advise --objective step",
    "advise --data didgits",
    "diagnose --optimizer adm",
    "diagnose --loss hubr",
    "diagnose --data didgits",
]
LISTS = ["list", "list --claims", "list --flows", "--version"]


def test_lists_and_misspellings_are_answered_without_importing_jax(tmp_path):
    """Modules are counted, not seconds: all commands in one process, in which nothing heavy may be
    there at the end."""
    code = f"""
import contextlib, io, json, sys
from ntk_momentum.__main__ import main
codes = {{}}
for line in {LISTS + WRONG}:
    sys.argv = ["ntk-momentum", *line.split()]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try: code = main()
        except SystemExit as left: code = left.code
    heavy = {{"jax", "numpy", "scipy", "xarray", "matplotlib", "pandas"}} & set(sys.modules)
    codes[line] = [code or 0, sorted(heavy)]
print(json.dumps(codes))
"""
    path = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=path
    )
    assert done.returncode == 0, done.stderr
    wanted = {line: [0, []] for line in LISTS} | {line: [2, []] for line in WRONG}
    assert json.loads(done.stdout) == wanted


def test_the_claims_read_are_the_claims_registered():
    from ntk_momentum.ledger import entries

    registered = {}
    for id, e in entries().items():
        home, note = f"{e.run.__module__}.{e.run.__qualname__}", " ".join(e.note.split())
        registered[id] = (id, e.section, e.kind, e.fault, e.under, home, note)
    assert {id: tuple(claim) for id, claim in words.claims().items()} == registered
    assert list(words.claims()) == list(registered)


@pytest.mark.parametrize("kind", ["flow", "optimizer"])
def test_the_methods_read_are_the_methods_that_can_be_made(kind):
    from ntk_momentum.results.named import KINDS, WORDS

    made, read = KINDS[kind](), WORDS[kind]()
    assert list(read) == list(made)
    for name, method in read.items():
        live = inspect.signature(made[name]).parameters
        assert {k: p.default for k, p in method.parameters.items()} == {
            k: p.default for k, p in live.items()
        }, name
        assert method.doc == inspect.getdoc(made[name]), name


def test_the_read_outs_solvers_and_activations_read_are_there():
    import diffrax
    import jax
    import jax.numpy as jnp

    from ntk_momentum.dynamics.readout import READOUTS
    from ntk_momentum.results.named import build_solver

    assert words.declared("dynamics/readout", "READOUTS") == tuple(READOUTS)
    explicit = {
        found.__name__.lower()
        for found in vars(diffrax).values()
        if isinstance(found, type)
        and issubclass(found, diffrax.AbstractERK)
        and found is not diffrax.AbstractERK
    }
    assert set(words.solvers()) == {"default", "lazy"} | explicit
    assert all(build_solver(name) is not None for name in words.solvers()[1:])
    usual = {"relu", "gelu", "softplus", "silu", "elu", "leaky_relu", "tanh", "sin"}
    assert usual <= words.activations()
    public = {name for m in (jax.nn, jnp) for name in vars(m) if not name.startswith("_")}
    assert {name for name in public if callable(getattr(jnp, name, None))} <= words.activations()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("digits:class", ("digits", "digits", None, "class")),
        ("mnist:folder:digit", ("mnist", "folder", None, "digit")),
        ("mine.csv:species:sign", ("table", "mine.csv", "species", "sign")),
        ("mine.npz", ("npz", "mine.npz", None, None)),
    ],
)
def test_a_data_set_is_named_with_what_its_targets_mean(text, said):
    word = words.data_word(text)
    assert (word.kind, str(word.path), word.label, word.target) == said
