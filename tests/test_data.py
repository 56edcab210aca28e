"""Data sets are checked at the door, never rescaled, and read without pickle."""

import gzip
import importlib.util
import io
import struct
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntk_momentum as nm
from ntk_momentum.data import dataset, open_data, warn_unless_unit
from ntk_momentum.results.grid import Source

KEY = jax.random.key(0)


def test_loaders_give_distinct_unit_inputs_with_signs_as_targets():
    for data in (nm.load_digits(50, key=KEY), nm.sphere(20, 5, key=KEY)):
        assert data.unit
        assert set(np.unique(data.y)) == {-1.0, 1.0}


def test_the_same_key_draws_the_same_digits():
    first, again = (nm.load_digits(30, key=KEY) for _ in range(2))
    other = nm.load_digits(30, key=jax.random.key(1))
    np.testing.assert_array_equal(first.X, again.X)
    assert not np.array_equal(first.X, other.X)


def test_a_dataset_is_never_rescaled():
    X = np.array([[3.0, 4.0], [0.0, 2.0]])
    data = nm.Dataset(X, [1.0, 2.0])
    np.testing.assert_array_equal(data.X, X)
    assert not data.unit


BAD = {
    "nan": (np.array([[1.0, np.nan]]), [1.0], "NaN"),
    "infinite target": (np.eye(2), [1.0, np.inf], "NaN or infinite"),
    "complex": (np.eye(2) * 1j, [1.0, 1.0], "complex"),
    "objects": (np.array([["a", "b"]], dtype=object), [1.0], "object"),
    "vector": (np.ones(3), np.ones(3), "shape"),
    "no rows": (np.ones((0, 3)), np.ones(0), "at least one input"),
    "mismatch": (np.eye(3), np.ones(2), "3 rows"),
    "duplicate": (
        np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]),
        np.ones(3),
        "inputs 0 and 2 are identical",
    ),
    "zero vector": (np.array([[1.0, 0.0], [0.0, 0.0]]), np.ones(2), "input 1 is the zero vector"),
}


@pytest.mark.parametrize(("X", "y", "message"), BAD.values(), ids=BAD.keys())
def test_bad_data_gets_one_clear_error(X, y, message):
    with pytest.raises(nm.InputError, match=message):
        nm.Dataset(X, y)


def test_antipodes_are_welcome_and_duplicates_on_request():
    nm.Dataset(np.array([[1.0, 0.0], [-1.0, 0.0]]), [1.0, -1.0])
    nm.Dataset(np.ones((2, 3)), [1.0, 1.0], on_duplicates="allow")
    with pytest.raises(nm.InputError, match="Did you mean 'allow'"):
        nm.Dataset(np.eye(2), [1.0, 1.0], on_duplicates="allows")


def test_npz_files_round_trip_and_damaged_ones_are_refused(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, X=np.eye(3), y=np.arange(3.0))
    np.testing.assert_array_equal(nm.load_npz(path).y, np.arange(3.0))
    for name, content in {
        "truncated": path.read_bytes()[:100],
        "empty": b"",
        "text": b"hello",
    }.items():
        bad = tmp_path / f"{name}.npz"
        bad.write_bytes(content)
        with pytest.raises(nm.InputError, match="cannot be read"):
            nm.load_npz(bad)
    np.savez(tmp_path / "pickled.npz", X=np.array([{}], dtype=object), y=np.ones(1))
    with pytest.raises(nm.InputError, match="cannot be read"):
        nm.load_npz(tmp_path / "pickled.npz")
    np.savez(tmp_path / "names.npz", inputs=np.eye(2))
    with pytest.raises(nm.InputError, match="lacks"):
        nm.load_npz(tmp_path / "names.npz")
    with pytest.raises(nm.InputError, match="where no file is"):
        nm.load_npz(tmp_path / "absent.npz")


def _write_idx(folder, images, labels, suffix=""):
    for stem, array in (("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)):
        raw = (
            struct.pack(">HBB", 0, 8, array.ndim)
            + struct.pack(f">{array.ndim}I", *array.shape)
            + array.astype(np.uint8).tobytes()
        )
        (folder / (stem + suffix)).write_bytes(gzip.compress(raw) if suffix else raw)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_files_are_read_and_truncated_ones_refused(tmp_path, suffix):
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28))
    _write_idx(tmp_path, images, np.arange(6), suffix)
    data = nm.load_mnist(tmp_path, 4, target="digit", unit=False)
    np.testing.assert_allclose(data.X, images[:4].reshape(4, -1) / 255)
    np.testing.assert_array_equal(data.y, np.arange(4))
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(nm.InputError, match="not a complete IDX file"):
        nm.load_mnist(tmp_path, 4)
    with pytest.raises(nm.InputError, match="must hold train-images"):
        nm.load_mnist(tmp_path / "absent", 4)


def test_too_many_digits_are_refused():
    with pytest.raises(nm.InputError, match="1797"):
        nm.load_digits(2000, key=KEY)


@pytest.mark.parametrize("target", ["parity", "digit"])
@pytest.mark.parametrize("unit", [True, False])
def test_the_digits_that_ship_are_scikit_learns_bit_for_bit(target, unit):
    raw = pytest.importorskip("sklearn.datasets").load_digits()
    for n in (1, 50, 1797):
        rows = np.asarray(jax.random.permutation(KEY, 1797))[:n]
        X, digits = raw.data[rows] / 16.0, raw.target[rows]
        y = np.where(digits % 2 == 0, 1.0, -1.0) if target == "parity" else digits.astype(float)
        data = nm.load_digits(n, key=KEY, target=target, unit=unit)
        X = X / np.linalg.norm(X, axis=1)[:, None] if unit else X
        np.testing.assert_array_equal(data.X, X, strict=True)
        np.testing.assert_array_equal(data.y, y, strict=True)


def test_digits_and_mnist_come_as_parity_number_class_or_index(tmp_path):
    labels = np.array([5, 0, 4, 1, 9, 2])
    _write_idx(tmp_path, np.random.default_rng(0).integers(1, 256, (6, 28, 28)), labels)
    wanted = {
        "parity": np.where(labels % 2 == 0, 1.0, -1.0),
        "digit": labels.astype(float),
        "class": np.eye(10)[labels],
        "index": labels,
    }
    for target, y in wanted.items():
        data = nm.load_mnist(tmp_path, 6, target=target)
        np.testing.assert_array_equal(data.y, y, strict=True)
        spelt = open_data(f"mnist:{tmp_path}:{target}", 6)
        key = jax.random.permutation(jax.random.key(0), 6)
        np.testing.assert_array_equal(spelt.y, y[key])
        assert nm.load_digits(6, key=KEY, target=target).y.shape == y.shape
    with pytest.raises(nm.InputError, match="Did you mean 'parity'"):
        nm.load_mnist(tmp_path, 6, target="party")


def test_integers_stay_integers_and_never_overflow():
    tokens = nm.Dataset(np.array([[0, 0, 0], [1, 2, 0]]), np.array([2, 0]))
    assert tokens.X.dtype == tokens.y.dtype == np.int64
    pixels = nm.Dataset(np.full((1, 784), 255, np.uint8), np.array([200], np.uint8))
    assert pixels.X.dtype == np.int32 and int((pixels.X @ pixels.X.T)[0, 0]) == 784 * 255**2
    assert int(-pixels.y[0]) == -200
    with jax.enable_x64(False), pytest.raises(nm.InputError, match="int32 does not"):
        nm.Dataset([[2**40]], [0])
    with pytest.raises(nm.InputError, match="int64 does not"):
        nm.Dataset(np.array([[2**63]], np.uint64), [0])
    with pytest.raises(nm.InputError, match="identical"):
        nm.Dataset([[1, 2], [1, 2]], [0.0, 1.0])


def test_a_model_of_tokens_has_a_kernel_and_integer_tables_that_of_their_floats():
    class Words(eqx.Module):
        table: eqx.nn.Embedding

        def __call__(self, x):
            return jnp.sum(jax.vmap(self.table)(x) ** 2)

    tokens = nm.Dataset([[0, 1], [2, 3], [4, 0]], [1, -1, 1])
    model = Words(eqx.nn.Embedding(5, 3, key=KEY))
    assert nm.empirical_ntk(model, tokens.X).shape == (3, 3)
    X = np.array([[3, 4], [70_000, 1]])
    net = nm.init_two_layer(16, 2, key=KEY)
    for kernel in (nm.infinite_ntk, lambda X: nm.empirical_ntk(net, X)):
        np.testing.assert_allclose(
            kernel(nm.Dataset(X.astype(np.int32), [0, 1]).X), kernel(X.astype(float)), rtol=1e-15
        )


@pytest.mark.slow
def test_a_table_of_integers_runs_as_its_floats():
    X, y = np.array([[3, 4, 1], [1, 0, 0], [0, 2, 1]]), np.array([1, -1, 1])
    net, ts = nm.init_two_layer(16, 3, key=KEY), np.linspace(0, 0.1, 3)
    of_integers, of_floats = (
        [
            nm.simulate(net, data, nm.HeavyBall(0.5), ts, readouts=["loss"]).loss,
            nm.train(net, data, nm.gradient_descent(1e-2), 2, readouts=["loss"]).loss,
            nm.ensemble(data, nm.HeavyBall(0.5), [16], 1, ts, readouts=["loss"]).loss,
        ]
        for data in (nm.Dataset(X, y), nm.Dataset(X.astype(float), y.astype(float)))
    )
    for one, other in zip(of_integers, of_floats, strict=True):
        np.testing.assert_array_equal(one, other)


def test_all_duplicates_are_named_at_once():
    X = np.array([[1.0, 0], [0, 1], [1, 0], [0, 0], [0, 1], [1, 0], [2, 2], [0, 0]])
    with pytest.raises(nm.InputError) as error:
        nm.Dataset(X, np.ones(8))
    for words in ("inputs 3 and 7 are zero", "inputs 0, 2 and 5", "inputs 1 and 4", '"drop"'):
        assert words in str(error.value)
    many = np.repeat(np.arange(1.0, 2001)[:, None], 2, axis=0)
    with pytest.raises(nm.InputError, match="1980 more groups") as error:
        nm.Dataset(many, np.ones(4000))
    assert len(str(error.value)) < 1000


def test_duplicates_are_dropped_on_request_with_their_count():
    X = np.array([[1.0, 0], [0, 1], [1, 0], [0, 0], [0, 1]])
    said = r"dropped 3 of 5 inputs: 2 identical.*\(1 of them with another target\) and 1 zero"
    with pytest.warns(UserWarning, match=said):
        data = nm.Dataset(X, [1.0, 2.0, 1.0, 3.0, 4.0], on_duplicates="drop")
    np.testing.assert_array_equal(data.X, X[:2])
    np.testing.assert_array_equal(data.y, [1.0, 2.0])
    nm.Dataset(X[:2], [1.0, 2.0], on_duplicates="drop")  # nothing to say
    with pytest.raises(nm.InputError, match="zero vectors"):
        nm.Dataset(np.zeros((2, 2)), [1.0, 2.0], on_duplicates="drop")


def test_normalized_inputs_are_unit_at_any_scale():
    X = np.random.default_rng(0).normal(size=(4, 3, 2))
    for scale in (1.0, 1e-300, 1e300, 1e-160):
        data = nm.Dataset(nm.normalize(scale * X), np.ones(4))
        assert data.unit and data.X.shape == X.shape
        np.testing.assert_allclose(data.X, nm.normalize(X), rtol=1e-14)
    assert nm.normalize(np.array([[3, 4]], np.int8)).tolist() == [[0.6, 0.8]]


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), "inputs 0 and 2 are zero vectors"),
        ([[0.0, 0.0]], "input 0 is the zero vector"),
        ([3.0, 4.0], "one input per row"),
        ([[np.inf, 1.0]], "NaN or infinite"),
        ([[1j, 1.0]], "complex"),
        ([["a", "b"]], "real numbers"),
        ([[1.0], [1.0, 2.0]], "array"),
        (nm.Dataset(np.eye(2), [1.0, 1.0]), "pass its inputs, data.X"),
    ],
)
def test_what_has_no_direction_is_not_normalized(X, message):
    with pytest.raises(nm.InputError, match=message):
        nm.normalize(X)


def test_inputs_that_a_theorem_does_not_cover_are_warned_of_once(monkeypatch):
    monkeypatch.setattr(dataset, "_told", [])
    unit, raw = np.eye(3), 2 * np.eye(3)
    warn_unless_unit(unit, "Theorem 1")
    with pytest.warns(UserWarning, match=r"^Theorem 1 assumes.*nm.normalize"):
        warn_unless_unit(raw, "Theorem 1")
    warn_unless_unit(raw, "Theorem 1")  # once in a process: warnings are errors here


LABELS = {
    "two words": (["no", "yes", "no"], None, [-1.0, 1.0, -1.0]),
    "three words": (["b", "a", "c"], None, np.eye(3)[[1, 0, 2]]),
    "numbers": ([3, 1, 2], None, [3, 1, 2]),
    "0 and 1 to signs": ([0, 1, 0], "sign", [-1.0, 1.0, -1.0]),
    "signs stay": ([-1.0, 1.0], "sign", [-1.0, 1.0]),
    "booleans": ([True, False], "sign", [1.0, -1.0]),
    "booleans as numbers": ([True, False], "value", [1.0, 0.0]),
    "parity": ([3, 4, 0], "parity", [-1.0, 1.0, 1.0]),
    "digit": ([3, 4, 0], "digit", [3.0, 4.0, 0.0]),
    "one-hot": ([7, 5, 7], "class", [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]),
    "index": (["x", "z", "y"], "index", [0, 2, 1]),
    "whole floats": ([1.0, 2.0], "parity", [-1.0, 1.0]),
    "objects": (np.array([1, 2], dtype=object), "digit", [1.0, 2.0]),
}


@pytest.mark.parametrize(("labels", "target", "y"), LABELS.values(), ids=LABELS.keys())
def test_labels_become_signs_rows_or_numbers(labels, target, y):
    np.testing.assert_array_equal(nm.encode_labels(labels, target), y, strict=True)


@pytest.mark.parametrize(
    ("labels", "target", "message"),
    [
        (["a", "b"], "parity", "text such as 'a'"),
        (["a", "b"], "value", 'only "sign"'),
        ([0.5, 1.0], "class", "takes integers, got fractions"),
        ([1, 2, 3], "sign", "two classes, got 3"),
        ([1, 2], "signs", "Did you mean 'sign'"),
        (["a", None], None, "text mixed .* None in row 1"),
        ([1.0, np.nan], None, "missing"),
        ([[1, 2]], "class", "one label per sample"),
        (np.array(["2020-01-01"], "M8[D]"), None, "datetime64"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, target, message):
    with pytest.raises(nm.InputError, match=message):
        nm.encode_labels(labels, target)


def test_text_targets_are_sent_to_where_they_are_encoded():
    with pytest.raises(nm.InputError, match=r"nm\.encode_labels"):
        nm.Dataset(np.eye(2), ["cat", "dog"])


FLOWERS = {
    "length": [5.1, 4.9, 6.2],
    "width": [3, 2, 4],
    "kind": ["setosa", "virginica", "setosa"],
}
AS_SIGNS = [-1.0, 1.0, -1.0]


def frames():
    yield "mapping", FLOWERS
    for module, make in (
        ("pandas", "DataFrame"),
        ("polars", "DataFrame"),
        ("pyarrow", "table"),
    ):
        try:
            yield module, getattr(__import__(module), make)(FLOWERS)
        except ImportError:
            continue


@pytest.mark.parametrize(("module", "frame"), list(frames()), ids=lambda value: str(value)[:8])
def test_frames_of_any_kind_give_one_data_set(module, frame):
    data = nm.load_table(frame)
    np.testing.assert_array_equal(data.X, [[5.1, 3.0], [4.9, 2.0], [6.2, 4.0]])
    np.testing.assert_array_equal(data.y, AS_SIGNS)
    only = nm.load_table(frame, "width", features=["length"], target="parity")
    np.testing.assert_array_equal(only.X, data.X[:, :1])
    np.testing.assert_array_equal(only.y, [-1.0, 1.0, 1.0])
    assert nm.load_table(frame, unit=True).unit


@pytest.mark.filterwarnings("error")
def test_files_give_what_their_frame_gives(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(FLOWERS)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.csv.gz", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    endings = ["csv", "csv.gz", "tsv"]
    if importlib.util.find_spec("pyarrow"):
        frame.to_parquet(tmp_path / "a.parquet")
        endings.append("parquet")
    for ending in endings:
        path = tmp_path / f"a.{ending}"
        data = nm.load_table(path)
        np.testing.assert_array_equal(data.X, np.stack([FLOWERS["length"], FLOWERS["width"]], 1))
        np.testing.assert_array_equal(data.y, AS_SIGNS)
        assert data.name == "a"
        np.testing.assert_array_equal(open_data(f"{path}").y, AS_SIGNS)
        np.testing.assert_array_equal(open_data(f"{path}:class").y, np.eye(2)[[0, 1, 0]])
        if ending != "parquet":
            with pytest.raises(nm.InputError, match="column 'kind' holds text such as 'setosa'"):
                open_data(f"{path}:width:parity")


BAD_TABLES = {
    "no header": ("5.1,3.5,setosa\n4.9,3.0,other\n", "first line .* holds numbers"),
    "row numbers": (",a,y\n0,1,2\n1,2,3\n", "first column .* has no name"),
    "semicolons": ("a;b;y\n1;2;3\n", "separated by something else"),
    "text and gaps": (
        "a,b,c,y\nred,1,,1\nblue,2,3,2\n",
        "'a' holds text.*'c' must be finite, got 1 missing",
    ),
    "gap in labels": ("a,b\n1,x\n2,\n", "'b' .* text mixed"),
    "ragged": ("a,b\n1,2\n1,2,3,4\n", "not a readable table"),
    "empty": ("", "not a readable table"),
    "duplicates": ("a,y\n1,2\n1,3\n", "inputs 0 and 1 are identical"),
}


@pytest.mark.parametrize(("text", "message"), BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_tables_that_would_be_misread_are_refused(tmp_path, text, message):
    pytest.importorskip("pandas")
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(nm.InputError, match=message):
        nm.load_table(path)


def test_a_header_of_column_numbers_is_a_header(tmp_path):
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "numbered.csv"
    pandas.DataFrame(np.arange(6.0).reshape(2, 3)).to_csv(path, index=False)
    np.testing.assert_array_equal(nm.load_table(path).X, [[0.0, 1.0], [3.0, 4.0]])
    np.testing.assert_array_equal(open_data(f"{path}:0:value").y, [0.0, 3.0])


def test_each_door_names_the_right_one(tmp_path):
    for call, message in {
        lambda: nm.load_npz("x.csv"): "nm.load_table",
        lambda: nm.load_npz(tmp_path): "nm.load_mnist",
        lambda: nm.load_table("x.npz"): "nm.load_npz",
        lambda: nm.load_table("x.xlsx"): "must end in .csv",
        lambda: nm.load_table("absent.csv"): "absent.csv, where no file is",
        lambda: nm.load_table(np.eye(2)): r"nm.Dataset\(X, y\)",
        lambda: nm.load_table(FLOWERS, "wdith"): "Did you mean 'width'",
        lambda: nm.load_table(FLOWERS, features="width"): "list of columns",
        lambda: open_data("didgits"): "Did you mean 'digits'",
        lambda: open_data("sphere:class"): "at random",
        lambda: open_data("digits:sign"): "unknown target",
        lambda: open_data("mnist:absent"): "must hold train-images",
    }.items():
        with pytest.raises(nm.InputError, match=message):
            call()


def test_a_command_opens_what_python_loads(tmp_path):
    np.savez(tmp_path / "mine.npz", X=np.eye(3), y=np.array(["a", "b", "c"]))
    np.testing.assert_array_equal(open_data(f"{tmp_path}/mine.npz").y, np.eye(3))
    np.testing.assert_array_equal(open_data(f"{tmp_path}/mine.npz:index").y, [0, 1, 2])
    np.testing.assert_array_equal(
        open_data("digits:digit", 7, seed=3).y,
        nm.load_digits(7, key=jax.random.key(3), target="digit").y,
    )
    np.testing.assert_array_equal(open_data("sphere", 4, 3).X, nm.sphere(4, 3, key=KEY).X)
    assert open_data("digits", 5, target="class").y.shape == (5, 10)


def test_sizes_are_asked_before_they_are_taken(tmp_path):
    with pytest.raises(nm.InputError, match="points of"):
        nm.sphere(10**9, 10**6, key=KEY)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**6)}
    )
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("X.npy", header.getvalue() + bytes(64))
        archive.writestr("y.npy", header.getvalue())
    with pytest.raises(nm.InputError, match=r"X in .*bomb\.npz, of shape"):
        nm.load_npz(tmp_path / "bomb.npz")


def test_standardized_columns_have_mean_zero_and_variance_one():
    X = np.random.default_rng(0).normal(size=(6, 3)) * [1e200, 1.0, 1e-200] + [0.0, 1e3, 0.0]
    X[:, 2] = 7.0
    found = nm.standardize(X)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(found.std(axis=0), [1, 1, 0], rtol=1e-12)


def test_a_file_gives_so_many_rows_at_random_standardized_before_scaled(tmp_path):
    X = np.arange(12.0).reshape(6, 2) ** 2 + 1
    np.savez(tmp_path / "mine.npz", X=X, y=np.arange(6.0))
    name = str(tmp_path / "mine.npz")
    assert open_data(name).n == 6 and open_data(name, 50).n == 6
    few = open_data(name, 4)
    np.testing.assert_array_equal(few.X, X[np.asarray(few.y, int)])
    both = Source(name, unit=True, standardize=True).load()
    np.testing.assert_allclose(both.X, nm.normalize(nm.standardize(X)), rtol=1e-14)
