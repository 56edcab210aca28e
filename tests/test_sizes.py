"""Calls that ask for more than a machine has are refused at once, with numbers, and take nothing:
one child process makes them all under a limit on its memory."""

import gzip
import json
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.network.neurons import equal_parts

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="limits are set, and peaks read, as on Linux"
)

HUGE = """
import jax, jax.numpy as jnp, numpy as np, equinox as eqx, ntk_momentum as nm
from ntk_momentum.ensembles.planning import plan
jax.config.update("jax_enable_x64", True)
key = jax.random.key(0)
small = nm.sphere(5, 4, key=key)
zeros = lambda *shape: np.broadcast_to(np.float32(0), shape)  # of any shape, from four bytes
mlp = eqx.nn.MLP(4, 3, 8, 1, key=key)
net = nm.init_two_layer(16, 4, key=key)
flow, steps = nm.HeavyBall(0.1), nm.heavy_ball(0.1, 0.5)
nm.load_digits(5, key=key)  # what is imported and traced for the first time is not timed
plan(small, flow, [16], 1, [0, 1.0])
"""

CALLS = {
    "a sphere": ("nm.sphere(10**9, 10**6, key=key)", "1000000000|1e"),
    "a sphere of numpy's integers": (
        "nm.sphere(np.int64(10**12), np.int64(10**12), key=key)",
        "draw fewer",
    ),
    "a sphere beyond floats": ("nm.sphere(10**400, 3, key=key)", r"10\^400 points of 3"),
    "digits": ("nm.load_digits(10**12, key=key)", None),
    "a data set": ("nm.Dataset(zeros(10**9, 10**6), zeros(10**9))", "copies of X"),
    "a data set's targets": (
        "nm.Dataset(zeros(10**7, 1), zeros(10**7, 10**6), 'allow')",
        "2 copies of y",
    ),
    "an archive": ("nm.load_npz('bomb.npz')", r"X in bomb.npz, of shape \(1000000"),
    "an archive's targets": ("nm.load_npz('targets.npz')", "y in targets.npz"),
    "an archive with a header of gigabytes": ("nm.load_npz('header.npz')", None),
    "an archive with pickles": ("nm.load_npz('pickle.npz')", None),
    "an IDX file": ("nm.load_mnist('short', 10)", None),
    "a zipped IDX file": ("nm.load_mnist('zipped', 10)", None),
    "a zipped IDX file that is large": ("nm.load_mnist('large', 10)", "use fewer images"),
    "a wide network": ("nm.init_two_layer(10**12, 20, key=key)", "fewer neurons"),
    "a wider network": ("nm.init_two_layer(10**400, 20, key=key)", r"10\^400 neurons"),
    "a paired network": ("nm.init_two_layer(10**12, 20, key=key, antisymmetric=True)", "float32"),
    "a wide kernel": ("nm.infinite_ntk(zeros(10**6, 2))", "the kernel of 1000000 x 1000000"),
    "two sets of inputs": ("nm.infinite_ntk(zeros(10**9, 2), zeros(10**9, 2))", "fewer inputs"),
    "inputs that are a view": ("nm.infinite_ntk(zeros(2, 10**13))", "a copy of x1"),
    "a wide kernel, traced": (
        "jax.eval_shape(nm.infinite_ntk, jax.ShapeDtypeStruct((10**7, 2), jnp.float32))",
        "the kernel of",
    ),
    "deep kernels": ("nm.fully_connected_ntk(depth=3)(zeros(10**6, 2))", "the kernels of"),
    "a deep net": ("nm.fully_connected_ntk(depth=10**12)", "smaller depth"),
    "a long quadrature": (
        "nm.fully_connected_ntk(depth=1, activation=jnp.tanh, order=10**7)",
        "smaller order",
    ),
    "the two-layer net's kernel": ("nm.empirical_ntk(net, zeros(10**6, 4))", "the kernel of"),
    "a model's kernel": ("nm.empirical_ntk(mlp, zeros(10**6, 4))", "ntk_operator"),
    "a model's whole kernel": (
        "nm.empirical_ntk(mlp, zeros(10**6, 4), output='full')",
        "trace-mean",
    ),
    "a model's inputs": ("nm.empirical_ntk(mlp, zeros(10**13, 4))", "a copy of x1"),
    "the products of a kernel": ("nm.ntk_operator(mlp, zeros(10**13, 4))", "a copy of x"),
    "draws": (
        "nm.monte_carlo_ntk(lambda key: mlp, small.X, key=key, samples=10**13)",
        "fewer samples",
    ),
    "wide draws": (
        "nm.monte_carlo_ntk(lambda key: nm.init_two_layer(10**13, 4, key=key), small.X, key=key)",
        "a model of",
    ),
    "draws of a wide kernel": (
        "nm.monte_carlo_ntk(lambda key: eqx.nn.MLP(4, 3, 8, 1, key=key), zeros(10**6, 4), key=key)",
        "this kernel, of",
    ),
    "a spectrum": ("nm.spectrum(zeros(10**6, 10**6))", "extreme_eigenvalues"),
    "a spectrum of outputs": ("nm.spectrum(zeros(10**4, 100, 10**4, 100))", "eigenvectors of"),
    "a prediction of many samples": (
        "nm.predict(zeros(10**6, 10**6), zeros(10**6), flow, [1.0])",
        "a prediction at 1 times",
    ),
    "a prediction at many times": (
        "nm.predict(np.eye(5), np.ones(5), flow, zeros(10**10))",
        r"1e\+10 times",
    ),
    "a prediction of many test points": (
        "nm.predict(np.eye(5), np.ones(5), flow, np.arange(9.), test_kernel=zeros(10**12, 5))",
        "test points",
    ),
    "a prediction after many steps": (
        "nm.predict(np.eye(5), np.ones(5), steps, [0, 10**13])",
        r"1e\+13 steps",
    ),
    "a response": ("nm.response(zeros(10**6), flow, zeros(10**6))", "a response at"),
    "an ensemble of wide nets": ("nm.ensemble(small, flow, [10**12], 1, [0, 1.])", "neurons"),
    "an ensemble of a prime width": (
        "nm.ensemble(small, flow, [10**12 + 39], 1, [0, 1.])",
        "neurons",
    ),
    "an ensemble of wider nets": ("nm.ensemble(small, flow, [10**30], 1, [0, 1.])", "neurons"),
    "an ensemble of neurons spread": (
        "nm.ensemble(small, flow, [10**15], 1, [0, 1.], layout='neurons')",
        "neurons",
    ),
}
"""What asks too much, and what its refusal mentions beside the numbers; None where something else
than memory says no."""

MAKE = """
import sys, json, time, resource
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, resource.RLIM_INFINITY))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
found = {}
for name, call in json.loads(sys.stdin.read()).items():
    before, start = peak(), time.process_time()
    try:
        eval(call)
        said = "accepted", ""
    except BaseException as error:
        said = type(error).__name__, str(error)
    found[name] = *said, time.process_time() - start, peak() - before
print(json.dumps(found))
"""


def npz(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def header(*shape: int, descr: str = "<f8") -> bytes:
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def idx(folder: Path, packed: bool, *shape: int, content: bytes = bytes(100)) -> None:
    folder.mkdir()
    content = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + content
    name = "train-images-idx3-ubyte" + (".gz" if packed else "")
    (folder / name).write_bytes(gzip.compress(content) if packed else content)


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    npz(folder / "bomb.npz", X=header(10**6, 10**9) + bytes(2**20), y=header(10**6) + bytes(99))
    npz(folder / "targets.npz", X=header(1, 1) + bytes(8), y=header(1, 10**15) + bytes(8))
    long = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b" " * 2**26
    npz(folder / "header.npz", X=long, y=header(1) + bytes(8))
    np.savez(folder / "pickle.npz", X=np.array([{}, {}], object), y=np.ones(2))
    idx(folder / "short", False, 10**9, 28, 28)
    idx(folder / "zipped", True, 10**9, 28, 28)
    idx(folder / "large", True, 2**31, 28, 28, content=bytes(100))
    with open(folder / "large/train-images-idx3-ubyte.gz", "ab") as file:
        file.truncate(2**33)  # sparse: what is packed could be as much as is announced
    done = subprocess.run(
        [sys.executable, "-c", HUGE + MAKE],
        input=json.dumps({name: call for name, (call, _) in CALLS.items()}),
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CALLS)
def test_too_much_is_refused_within_a_second_with_numbers_and_nothing_is_taken(name, refusals):
    kind, said, seconds, taken = refusals[name]
    assert kind == "InputError", (kind, said)
    assert seconds < 1 and taken < 2**26, (seconds, taken, said)
    if CALLS[name][1] is not None:
        pattern = r"would take about .*B.*, but .*B may be used .*; .*\."
        assert re.search(pattern, said) and re.search(CALLS[name][1], said), said


def test_what_a_header_announces_and_a_file_holds_must_agree(tmp_path):
    idx(tmp_path / "short", False, 10**9, 28, 28)
    with pytest.raises(nm.InputError, match=r"announces shape .* the file holds at most 116 bytes"):
        nm.load_mnist(tmp_path / "short", 10)


def test_parts_are_the_fewest_that_divide_evenly():
    plain = lambda m, wanted: next((k for k in range(wanted, 2 * wanted) if m % k == 0), wanted)
    pairs = [(m, wanted) for m in range(1, 130) for wanted in range(1, 2 * m + 3)]
    assert [equal_parts(*pair) for pair in pairs] == [plain(*pair) for pair in pairs]
    assert equal_parts(10**18 + 9, 2**57) == 2**57
