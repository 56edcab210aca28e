"""Which method computes an empirical kernel, what it costs in flops and bytes, and in which blocks:
before anything is allocated.

The cost model, with F the flops of one forward pass, P trained numbers, k outputs, e = 2 for
output="full" and 1 otherwise, and one backward pass taken as 2F:

    method        flops                                      bytes
    jacobian      n F (1 + 2k) + 2 n1 n2 k^e P               (b1 + b2) k P
    structured    n F (1 + 2k) + 2 n1 n2 sum over leaves     (b1 + b2) sum over leaves
    ntk-vp        n2 F (1 + 2k) + 2 n1 n2 k F                b k P + b^2 k A

where a weight in one product adds t^2 (k^e o + i) flops and k t o + t i bytes, any other leaf k^e
size and k size, a convolution's besides what its patches take (a weight's in a scan, what its
steps do), with A the numbers that one forward
pass writes. n = n1 + n2 counts the Jacobians taken, recomputed once per block of rows; a symmetric
kernel saves (half of) the blocks above its diagonal. "auto" takes the fewest flops: all three are
matrix products.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from ..memory import check_fits, gib
from . import factors

Method = Literal["jacobian", "ntk-vp", "structured"]
Output = Literal["trace-mean", "trace-sum", "diagonal", "full"]

BUDGET = 2**28
"""Bytes that the factors of two blocks of samples may take when no block_size is given: 256 MiB,
small beside any device's memory and large beside its caches (chosen, not measured). What the
machine has is for `memory` to say."""


@dataclasses.dataclass(frozen=True)
class KernelPlan:
    """How a kernel will be computed: the method, its blocks, flops, peak bytes (the result
    included), and the methods not taken.

    products: the weights kept in factors, by leaf number ("structured" only).
    """

    method: Method
    block_size: int
    flops: float
    bytes: int
    result_bytes: int
    products: tuple[tuple[int, factors.Product | factors.Convolution], ...] = dataclasses.field(
        default=(), repr=False
    )
    others: tuple[KernelPlan, ...] = dataclasses.field(default=(), compare=False)

    def check_memory(self, of: Any = None) -> None:
        """Refuse what does not fit into the free memory. of: as in `memory.check_fits`."""
        check_fits(
            self.bytes,
            f"this kernel, of {gib(self.result_bytes)},",
            'take a smaller block_size, output="trace-mean", or ntk_operator, which never forms it',
            itemsize=1,
            of=of,
        )


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """The numbers that the cost model sees."""

    n1: int
    n2: int
    symmetric: bool
    k: int
    power: int
    itemsize: int
    forward: float
    written: int
    leaves: tuple[int, ...]

    def blocks(self, b: int) -> tuple[float | int, float | int, float]:
        """(Jacobians taken for rows, for columns, share of the pairs computed) with blocks of b
        samples."""
        rows = math.ceil(self.n1 / b)
        if self.symmetric:
            return (self.n1 if rows > 1 else 0), self.n1 * (rows + 1) / 2, (rows + 1) / (2 * rows)
        return self.n1, self.n2 * rows, 1.0

    @property
    def entries(self) -> int:
        return self.n1 * self.n2 * self.k**self.power


def written(closed: Any) -> int:
    """Numbers that a program writes, each result of each of its operations once."""
    return sum(var.aval.size for eqn in closed.jaxpr.eqns for var in eqn.outvars)


def by_shape(ask: Callable[..., Any], *args: Any) -> Any:
    """ask(*args), found again for arguments that differ in the numbers of their arrays alone.

    A model is traced to learn the shape of its outputs and the plan of its kernel, which costs more
    than a small kernel itself; neither depends on its weights. What cannot be hashed is asked anew.
    """
    leaves, tree = jax.tree.flatten(args)
    forms = tuple(
        _Form(leaf.shape, leaf.dtype, type(leaf)) if hasattr(leaf, "shape") else leaf
        for leaf in leaves
    )
    try:
        return _asked(ask, tree, forms, bool(jax.config.read("jax_enable_x64")))
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return ask(*args)


class _Form(NamedTuple):
    """What of an array counts."""

    shape: tuple[int, ...]
    dtype: Any
    kind: type


@functools.lru_cache(maxsize=256)
def _asked(ask: Callable[..., Any], tree: Any, forms: tuple[Any, ...], wide: bool) -> Any:
    """By shapes alone; `wide`, since float64 decides what a model returns."""
    leaves = [
        jax.ShapeDtypeStruct(form.shape, form.dtype) if isinstance(form, _Form) else form
        for form in forms
    ]
    return ask(*jax.tree.unflatten(tree, leaves))


def plan_kernel(
    f: Any,
    trained: PyTree,
    frozen: PyTree,
    x1: Any,
    x2: Any,
    method: str,
    block_size: int | None,
    output: Output,
) -> KernelPlan:
    """The plan for f(trained, frozen, x) with values (k,), all given by shape. `method` is "auto"
    or one of the three."""
    x = jax.ShapeDtypeStruct(x1.shape[1:], x1.dtype)
    closed = jax.make_jaxpr(f)(trained, frozen, x)
    value = closed.out_avals[0]
    leaves = jax.tree.leaves(trained)
    n1, n2 = x1.shape[0], (x1 if x2 is None else x2).shape[0]
    k = value.size
    power = {"trace-mean": 0, "trace-sum": 0, "diagonal": 1, "full": 2}[output]
    cost = jax.jit(f).lower(trained, frozen, x).cost_analysis() or {}
    sizes = tuple(leaf.size for leaf in leaves)
    forward = float(cost.get("flops", 0) or 2 * sum(sizes))
    s = _Sizes(n1, n2, x2 is None, k, power, value.dtype.itemsize, forward, written(closed), sizes)
    found = factors.products(closed.jaxpr, len(leaves))
    contraction = k if output != "full" else k * k

    def dear(p: factors.Product, size: int) -> bool:
        """Whether factors cost more than the Jacobian."""
        return p.times**2 * (contraction * p.free + p.contracted) >= contraction * size

    chosen = {
        index: dataclasses.replace(p, summed=dear(p, leaves[index].size))
        if isinstance(p, factors.Product)
        else p
        for index, p in found.items()
        if isinstance(p, factors.Convolution) or p.steps or not dear(p, leaves[index].size)
    }
    plans = [_jacobian(s, block_size, {}), _ntk_vp(s, block_size)]
    plans.insert(
        0,
        _jacobian(s, block_size, chosen)
        if chosen
        else dataclasses.replace(plans[0], method="structured"),
    )
    # with one output reverse mode takes as long for a convolution as its patches do
    convolved = all(isinstance(p, factors.Convolution) for p in chosen.values())
    prefer = "jacobian" if convolved and (k == 1 or not chosen) else "structured"
    best = min(plans, key=lambda p: (p.flops, p.method != prefer))
    taken = best if method == "auto" else next(p for p in plans if p.method == method)
    return dataclasses.replace(taken, others=tuple(p for p in plans if p.method != taken.method))


def _jacobian(
    s: _Sizes, block_size: int | None, chosen: dict[int, factors.Product | factors.Convolution]
) -> KernelPlan:
    per_sample = pair_flops = pair_numbers = 0.0
    contraction = s.k**2 if s.power == 2 else s.k
    for index, size in enumerate(s.leaves):
        p = chosen.get(index)
        per_sample += s.k * size if p is None else p.numbers(s.k)
        if isinstance(p, factors.Product) and not p.summed:
            pair_flops += p.times**2 * (contraction * p.free + p.contracted)
            pair_numbers = max(pair_numbers, p.times**2 * (s.k**s.power + 1))
        else:
            pair_flops += contraction * size
    result = s.entries * s.itemsize
    b = _fit(s, block_size, lambda b: (2 * b * per_sample + b * b * pair_numbers) * s.itemsize)
    rows, columns, share = s.blocks(b)
    flops = (rows + columns) * s.forward * (1 + 2 * s.k) + 2 * share * s.n1 * s.n2 * pair_flops
    memory = 2 * result + (2 * b * per_sample + b * b * pair_numbers) * s.itemsize
    return KernelPlan(
        "structured" if chosen else "jacobian", b, flops, int(memory), result, tuple(chosen.items())
    )


def _ntk_vp(s: _Sizes, block_size: int | None) -> KernelPlan:
    result = s.entries * s.itemsize
    use = lambda b: (b * s.k * sum(s.leaves) + b * b * s.k * s.written) * s.itemsize
    b = _fit(s, block_size, use)
    _, columns, share = s.blocks(b)
    flops = columns * s.forward * (1 + 2 * s.k) + 2 * share * s.n1 * s.n2 * s.k * s.forward
    return KernelPlan("ntk-vp", b, flops, 2 * result + int(use(b)), result)


def _fit(s: _Sizes, block_size: int | None, use: Any) -> int:
    """The given block size, or the largest power-of-two share of the samples whose working memory
    is within `BUDGET`."""
    n = max(s.n1, s.n2)
    b = n if block_size is None else min(block_size, n)
    while block_size is None and b > 1 and use(b) > BUDGET:
        b = math.ceil(b / 2)
    return int(np.clip(b, 1, n))
