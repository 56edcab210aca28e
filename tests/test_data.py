"""Data sets are checked at the door, never rescaled, and read without pickle."""

import gzip
import struct

import jax
import numpy as np
import pytest

import ntk_momentum as nm

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
    "no rows": (np.ones((0, 3)), np.ones(0), "empty"),
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
        with pytest.raises(nm.InputError, match="readable"):
            nm.load_npz(bad)
    np.savez(tmp_path / "pickled.npz", X=np.array([{}], dtype=object), y=np.ones(1))
    with pytest.raises(nm.InputError, match="readable"):
        nm.load_npz(tmp_path / "pickled.npz")
    np.savez(tmp_path / "names.npz", inputs=np.eye(2))
    with pytest.raises(nm.InputError, match="lacks"):
        nm.load_npz(tmp_path / "names.npz")
    with pytest.raises(nm.InputError, match="no file"):
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
    with pytest.raises(nm.InputError, match="no MNIST file"):
        nm.load_mnist(tmp_path / "absent", 4)


def test_too_many_digits_are_refused():
    with pytest.raises(nm.InputError, match="1797"):
        nm.load_digits(2000, key=KEY)
