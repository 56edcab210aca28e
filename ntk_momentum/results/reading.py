"""Reading results back: the units of all sweeps in a folder as one labelled data set.

Files are checked as a whole when the folder is opened; a value is read from its file when it is
asked for, and the file is checked again when it was changed meanwhile.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..errors import InputError, check_path, require, unknown_name
from .store import Stored, fingerprint
from .tiles import Tile, tiled

AXES = ("variant", "data", "flow", "width", "seed")
LABELS = (*AXES, "time")


def open_results(folder: str | Path) -> Any:
    """All sweeps of a results folder as one lazily loaded data set, whatever mix of units it holds.

    Dimensions: data, flow, width, seed, step, and sample where a read-out has one. Coordinates: the
    labels of these; `time` (data, flow, step); `kind` of flow, and its hyperparameters by name
    (data, flow), NaN where a flow has none of that name. Runs of equal labels but different
    settings (say, antisymmetric or not, or of another dtype) lie along one more dimension,
    `variant`, with the settings that differ as coordinates; the settings in common are attributes.
    NaN where there is no run. A unit computed twice counts once, the last time; damaged files are
    left out with a warning.

    Args:
        folder: A folder that `ntk-momentum sweep --out` wrote.

    Returns:
        An xarray.Dataset; a file is read when a value in it is asked for.

    Raises:
        InputError: If there is no such folder, or no sweep in it.
        MissingPackage: If the extra `results` is not installed.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ntk_momentum.results.grid import Sweep
        >>> from ntk_momentum.results.sweep import carry_out
        >>> asked = Sweep(("sphere",), 4, 3, flows=("gradient_flow",), widths=(8,), times=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = carry_out(asked, Path(folder))
        ...     sizes = dict(nm.open_results(folder).sizes)
        >>> sizes["flow"], sizes["width"], sizes["seed"], sizes["step"]
        (1, 1, 4, 3)
    """
    folder = check_path("folder", folder)
    xarray = require("xarray", "reading results")
    units, unread = _units(folder)
    for line in unread:
        warnings.warn(f"left out: {line}", RuntimeWarning, stacklevel=2)
    if not units:
        raise InputError(_nothing(Path(folder)))
    units.sort(key=lambda unit: str(unit.stored.attributes["created"]))
    codes = {unit.stored.attributes["code"] for unit in units}
    if len(codes) > 1:
        warnings.warn(
            f"the units in {folder} were computed by {len(codes)} versions of the code, "
            "its packages or devices",
            RuntimeWarning,
            stacklevel=2,
        )
    axes = _axes(units)
    places = [unit.places(axes) for unit in units]
    leading = AXES if len(axes["variant"]) > 1 else AXES[1:]
    lengths = {axis: len(axes[axis]) for axis in leading}

    variables: dict[str, Any] = {}
    for name in sorted(
        {name for unit in units for name in unit.stored.contents} - {*LABELS, "step"}
    ):
        having = [
            (unit, place)
            for unit, place in zip(units, places, strict=True)
            if name in unit.stored.contents
        ]
        dims = having[-1][0].stored.dims(name)
        rest = [dim for dim in dims if dim not in AXES]
        sizes = [
            max(unit.stored.shape(name)[unit.stored.dims(name).index(dim)] for unit, _ in having)
            for dim in rest
        ]
        tiles = []
        for unit, place in having:
            own = (
                [np.arange(size) for size in unit.stored.shape(name)[-len(rest) :]] if rest else []
            )
            tiles.append(Tile(unit.stored, (*(place[axis] for axis in leading), *own)))
        shape = (*lengths.values(), *sizes)
        variables[name] = xarray.Variable((*leading, *rest), tiled(name, tiles, shape))
    coordinates = {axis: list(axes[axis]) for axis in leading if axis != "variant"}
    dataset = xarray.Dataset(variables, coordinates).assign_coords(
        _coordinates(units, places, axes, leading)
    )
    common, differing = _settings(units)
    return dataset.assign_coords(
        {name: ("variant", values) for name, values in differing.items()}
    ).assign_attrs(
        title=f"sweeps in {Path(folder).name}",
        units=len(units),
        **{key: _plain(value) for key, value in common.items()},
    )


def damaged(folder: str | Path) -> list[str]:
    """The files of a results folder's sweeps that cannot be read, each with the reason: what
    `open_results` leaves out."""
    return _units(Path(folder))[1]


class _Unit:
    """A stored unit with its labels."""

    def __init__(self, stored: Stored):
        self.stored = stored
        self.settings: dict[str, Any] = json.loads(stored.attributes["settings"])
        self.parameters: list[dict[str, Any]] = json.loads(stored.attributes["parameters"])
        self.variant = fingerprint(self.settings)
        self.source = (stored.attributes["data"], stored.attributes["data_sha256"])
        self.labels = {
            "variant": [self.variant],
            "data": [self.source],
            "flow": json.loads(stored.attributes["flows"]),
            "width": json.loads(stored.attributes["widths"]),
            "seed": json.loads(stored.attributes["seeds"]),
        }

    def places(self, axes: dict[str, dict[Any, Any]]) -> dict[str, np.ndarray]:
        """Where the unit's labels stand on the axes of all."""
        keys = {**self.labels, "data": [axes["data_of"][self.source]]}
        return {axis: np.array([axes[axis][label] for label in keys[axis]]) for axis in AXES}


def _units(folder: Path) -> tuple[list[_Unit], list[str]]:
    """The units below a folder, and why some could not be read."""
    files.check_results(folder)
    units, unread = [], []
    for path in files.below(folder, "unit-*.nc"):
        try:
            units.append(_Unit(Stored.open(path)))
        except (InputError, KeyError, ValueError) as error:
            unread.append(
                str(error) if isinstance(error, InputError) else f"{path} is not a unit of a sweep"
            )
    return units, unread


def _nothing(folder: Path) -> str:
    others = sorted({path.name.rsplit("-", 1)[0] for path in files.below(folder, "*-*.nc")})
    found = (
        f"; it holds the experiments {', '.join(others)}, see: ntk-momentum table {folder}"
        if others
        else ""
    )
    return f"{folder} holds no units of a sweep{found}; give a folder of ntk-momentum sweep."


def _axes(units: Sequence[_Unit]) -> dict[str, dict[Any, Any]]:
    """For each axis its labels with their places; "data_of": the label of a data set, told apart by
    its hash where names agree."""
    sources = sorted({unit.source for unit in units})
    names = [name for name, _ in sources]
    label = {
        source: source[0] if names.count(source[0]) == 1 else f"{source[0]} #{source[1][:6]}"
        for source in sources
    }
    flows: dict[str, tuple[Any, ...]] = {}
    for unit in units:
        for text, values in zip(unit.labels["flow"], unit.parameters, strict=True):
            flows.setdefault(
                text,
                (
                    values["name"],
                    ":" in text,
                    [np.ravel(v).tolist() for k, v in values.items() if k != "name"],
                ),
            )
    ordered = {
        "variant": sorted({unit.variant for unit in units}),
        "data": [label[source] for source in sources],
        "flow": sorted(flows, key=flows.__getitem__),
        "width": sorted({width for unit in units for width in unit.labels["width"]}),
        "seed": sorted({seed for unit in units for seed in unit.labels["seed"]}),
    }
    axes: dict[str, Any] = {
        axis: {value: i for i, value in enumerate(values)} for axis, values in ordered.items()
    }
    return {**axes, "data_of": label}


def _coordinates(
    units: Sequence[_Unit],
    places: Sequence[dict[str, np.ndarray]],
    axes: dict[str, Any],
    leading: Sequence[str],
) -> dict[str, Any]:
    """time, kind and hyperparameters: small, so read at once."""
    dims = [axis for axis in leading if axis in ("variant", "data", "flow")]
    steps = max(unit.stored.shape("time")[-1] for unit in units)
    table = tuple(len(axes[axis]) for axis in dims)
    found: dict[str, np.ndarray] = {"time": np.full((*table, steps), np.nan)}
    kind = np.full(len(axes["flow"]), "", object)
    for unit, place in zip(units, places, strict=True):
        time = unit.stored.read("time")
        at = np.ix_(*(place[axis] for axis in dims))
        found["time"][..., : time.shape[-1]][at] = time.reshape(
            *(len(place[axis]) for axis in dims), -1
        )
        kind[place["flow"]] = [values["name"] for values in unit.parameters]
        for row, values in enumerate(unit.parameters):
            for name, value in values.items():
                if np.ndim(value) == 0 and not isinstance(value, str):
                    column = found.setdefault(name, np.full(table, np.nan))
                    column[tuple(place[axis][row if axis == "flow" else 0] for axis in dims)] = (
                        value
                    )
    coordinates = {
        name: ((*dims, "step") if name == "time" else tuple(dims), values)
        for name, values in found.items()
    }
    return {**coordinates, "kind": ("flow", kind.astype(str))}


def _settings(units: Sequence[_Unit]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """(settings in common, settings that differ: one value for each variant)."""
    variants = {
        unit.variant: unit.settings for unit in sorted(units, key=lambda unit: unit.variant)
    }
    names = sorted({name for settings in variants.values() for name in settings})
    values = {
        name: [_plain(settings.get(name)) for settings in variants.values()] for name in names
    }
    common = {
        name: found[0]
        for name, found in values.items()
        if len({str(value) for value in found}) == 1
    }
    differing = {name: _alike(found) for name, found in values.items() if name not in common}
    return common, differing


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float)) else str(value)


def _alike(values: list[Any]) -> list[Any]:
    return (
        values
        if len({isinstance(value, str) for value in values}) == 1
        else [str(value) for value in values]
    )


def scalar_readouts(dataset: Any) -> list[str]:
    """The read-outs that are one number at each saved time."""
    return [
        str(name)
        for name, variable in dataset.data_vars.items()
        if "step" in variable.dims and set(variable.dims) <= {*AXES, "step"}
    ]


def check_readouts(names: Iterable[str], dataset: Any) -> None:
    """Raise unless these are read-outs of one number at each saved time."""
    known = scalar_readouts(dataset)
    for name in names:
        if name not in known:
            raise unknown_name("read-out", name, known)
