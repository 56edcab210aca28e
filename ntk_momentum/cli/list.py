"""`ntk-momentum list`: the experiments, the statements of the paper, the flows, the optimizers."""

from __future__ import annotations

from ..errors import InputError
from ..words import claims
from .options import command


@command
class List:
    """Name the experiments and what each one claims, the statements of the paper that `verify`
    runs, or the flows or optimizers that `sweep` takes.

    Example: ntk-momentum list --claims
    """

    claims: bool = False
    """The paper's statements: identifier, section, kind, class (what is wrong with the print),
    where the corrected form holds, and the function that runs each."""

    flows: bool = False
    """The flows that `sweep --flows` takes: their parameters, equations and units."""

    optimizers: bool = False
    """The optimizers that `sweep --optimizers` takes: their parameters, equations and units."""

    def __call__(self, float32: bool) -> int:
        from ..study.registry import experiments, folder

        if self.flows or self.optimizers:
            from ..results.named import method_help

            kinds = [kind for kind in ("flow", "optimizer") if getattr(self, f"{kind}s")]
            for kind in kinds:
                print("\n".join(method_help(kind)), end="")
            return 0
        if self.claims:
            for claim in claims().values():
                print(
                    f"{claim.id:23} section {claim.section:2} {claim.kind:12} "
                    f"{claim.fault:10}  {claim.under:29} {claim.home}"
                )
            return 0
        found = experiments()
        if not found:
            raise InputError(f"no experiments in {folder()}.")
        width = max(map(len, found))
        for experiment in found.values():
            print(f"{experiment.name:{width}}  {experiment.title}")
        return 0
