"""Labels as targets: +1 and -1, one-hot rows, class numbers, or the numbers they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError, check_choice, described

TARGETS = ("value", "sign", "parity", "digit", "class", "index")


def encode_labels(
    labels: Any, target: str | None = None, *, classes: Sequence[Any] | None = None
) -> np.ndarray:
    """Labels as the targets y_i of section 2: numbers, +1 and -1, or one-hot rows.

    The paper takes y_i = +1 or -1, and its published experiments parity and digit (section 5).

    Args:
        labels: Numbers or text, (n,).
        target: "value", numbers as they are (integers stay integers); "sign", -1 and +1 for the two
            classes in sorted order; "parity", +1 for even and -1 for odd integers; "digit", the
            integer as a floating number; "class", one-hot, a column for each class in sorted order;
            "index", the number of the class there, for losses that take integers. By default text
            becomes "sign" where there are two classes and "class" where there are more, and numbers
            stay what they are.
        classes: All classes in order, where `labels` may lack some.

    Returns:
        The targets, (n,), or (n, classes) for "class".

    Raises:
        InputError: If the target is unknown, labels do not fit it, or some are missing.

    Examples:
        >>> nm.encode_labels(["no", "yes", "no"]).tolist()
        [-1.0, 1.0, -1.0]
    """
    labels = plain("labels", labels)
    if classes is not None:
        if isinstance(classes, str) or not isinstance(classes, Sequence | np.ndarray):
            raise InputError(
                f"classes must be a list of all classes, got {described(classes)}; try "
                "classes=np.unique(labels)."
            )
        lacking = np.setdiff1d(labels, np.asarray(classes))
        if lacking.size:
            raise InputError(
                f"classes must hold every label, got {list(classes)[:5]} without {lacking[0]}; try "
                "classes=np.unique(labels)."
            )
    if labels.ndim != 1:
        if target is None and labels.dtype.kind in "biuf":
            return labels
        raise InputError(f"labels must have shape (n,), got {labels.shape}; one label per sample.")
    text = labels.dtype.kind == "U"
    if target is None:
        many = len(np.unique(labels) if classes is None else classes) > 2
        target = "value" if not text else "class" if many else "sign"
    check_choice("target", target, TARGETS)
    whole = labels.dtype.kind in "biu" or (not text and np.all(labels == np.round(labels)))
    if not whole and not (text and target in ("sign", "class", "index")):
        fits = 'only "sign", "class" and "index" are for text' if text else 'try target="value"'
        if text or target not in ("value", "sign"):
            got = f"text such as {str(labels[0])!r}" if text else "fractions"
            raise InputError(f"target={target!r} takes integers, got {got}; {fits}.")
    if target == "value":
        return labels.astype(np.float64) if labels.dtype.kind == "b" else labels
    if target == "parity":
        return np.where(labels % 2 == 0, 1.0, -1.0)
    if target == "digit":
        return labels.astype(np.float64)
    known = np.unique(labels) if classes is None else np.asarray(classes)
    index = np.argmax(labels[:, None] == known, axis=1)
    if target == "index":
        return index
    if target == "class":
        return np.eye(len(known))[index]
    if len(known) != 2:
        some = ", ".join(str(label) for label in known[:5]) + ", ..." * (len(known) > 5)
        raise InputError(
            f'target="sign" takes two classes, got {len(known)} ({some}); try "class".'
        )
    return 2.0 * index - 1


def plain(name: str, column: Any) -> np.ndarray:
    """A column as numbers or as text, whatever kind of array it came in; nothing may be missing."""
    try:
        values = np.asarray(column)
        if values.dtype.kind in "OT":
            words = [isinstance(value, str) for value in values.ravel()]
            if values.ndim == 0:
                raise TypeError(f"got {described(column)}")
            if any(words) and not all(words):
                row = words.index(not words[0])
                raise InputError(
                    f"{name} must be numbers or text, got text mixed with other or missing values, "
                    f"e.g. {values.ravel()[row]!r} in row {row}; drop or repair such rows."
                )
            values = values.astype(np.str_ if any(words) else np.float64)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{name} must hold numbers or text: {error}; convert it, or leave it out."
        ) from error
    if values.dtype.kind == "U" and not isinstance(column, np.ndarray):
        _check_words(name, column)
    if values.dtype.kind not in "biufU":
        raise InputError(
            f"{name} must hold numbers or text, got dtype {values.dtype}; convert or leave it out."
        )
    if values.dtype.kind == "f" and not np.all(np.isfinite(values)):
        rows = np.unique(np.argwhere(~np.isfinite(values))[:, 0])
        raise InputError(
            f"{name} must be finite, got {rows.size} missing, NaN or infinite values (first "
            f"rows: {rows[:5].tolist()}); drop or repair those rows."
        )
    return values


def _check_words(name: str, column: Any) -> None:
    """numpy makes text of a list's numbers where one of its items is text."""
    if not isinstance(column, list | tuple) or not any(isinstance(item, str) for item in column):
        return
    other = next((item for item in column if not isinstance(item, str)), None)
    if other is not None and not isinstance(other, list | tuple):
        raise InputError(
            f"{name} must be numbers or text, got text mixed with other values, e.g. {other!r} in "
            "row "
            f"{column.index(other)}; drop or repair such rows."
        )
