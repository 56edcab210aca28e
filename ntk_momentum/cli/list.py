"""`ntk-momentum list`: the experiments, the statements of the paper, the flows, the optimizers."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..words import claim_ids, claims
from .options import Shared, command, wrapped


@command
class List:
    """Name the experiments and what each one claims, the statements of the paper that `verify`
    runs, or the flows or optimizers that `sweep` takes.

    Example: ntk-momentum list --claims
    """

    claims: tuple[str, ...] | None = None
    """With section, kind, class (what is wrong with the print), where the corrected form holds, and
    the function that runs each; all of them where none is named, else in words what is wrong."""

    flows: tuple[str, ...] | None = None
    """With equations and units, those named; else all in a sentence each."""

    optimizers: tuple[str, ...] | None = None
    """With equations and units, those named; else all in a sentence each."""

    def __call__(self, shared: Shared) -> int:
        from ..study.notation import shown
        from ..study.registry import experiments, folder

        record: dict[str, Any] = {}
        lines: list[str] = []
        for kind, names in (("flow", self.flows), ("optimizer", self.optimizers)):
            if names is not None:
                from ..results.named import method_help

                found = method_help(kind, names)
                record[f"{kind}s"] = [
                    {"name": name, "written": text[0], "description": " ".join(text[1:])}
                    for name, text in found.items()
                ]
                for first, *rest in found.values():
                    told = rest if names else " ".join([*rest, ""]).partition(". ")[:1]
                    lines += [first, *(f"    {line}".rstrip() for line in told)]
                    lines += [""] if names else []
        if self.claims is not None:
            known = claims()
            named = claim_ids(self.claims) if self.claims else known
            record["claims"] = [one for id, one in known.items() if id in named]
            for claim in record["claims"]:
                lines.append(
                    f"{claim.id:23} section {claim.section:2} {claim.kind:12} "
                    f"{claim.fault:10}  {claim.under:29} {claim.home}"
                )
                lines += [wrapped(shown(claim.note), 96)] if self.claims else []
        if not record:
            studies = experiments()
            if not studies:
                raise InputError(f"no experiments in {folder()}.")
            record["experiments"] = [
                {"name": one.name, "title": one.title} for one in studies.values()
            ]
            width = max(map(len, studies))
            lines += [f"{one.name:{width}}  {one.title}" for one in studies.values()]
        shared.show(record, "\n".join(lines).rstrip())
        return 0
