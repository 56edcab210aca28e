"""Options over all commands and experiments: one name has one meaning, and everything is told."""

import collections
import dataclasses
import typing

import pytest

from ntk_momentum import cli
from ntk_momentum.cli import parser
from ntk_momentum.cli.options import SHARED, Shared, docs_of
from ntk_momentum.study.registry import experiments


def every_option():
    """name -> {who has it: (its kind without None and without Annotated, what is said there)}."""
    found = collections.defaultdict(dict)
    for command, chosen in parser.COMMANDS.items():
        hints, docs = typing.get_type_hints(chosen), docs_of(chosen)
        for field in dataclasses.fields(chosen):
            found[field.name][command] = hints[field.name], docs.get(field.name, "")
    for experiment in experiments().values():
        for name, option in experiment.options().items():
            found[name][experiment.name] = option.kind, option.help
    return found


def scalar(kind):
    """What a value of this kind is made of; one of a few words is text."""
    if typing.get_origin(kind) is typing.Literal:
        return {str}
    parts = [part for part in typing.get_args(kind) if part not in (type(None), ...)]
    return set.union(*map(scalar, parts)) if parts else {kind}


def several(kind):
    """Whether it takes several values, not counting None."""
    parts = [kind, *typing.get_args(kind)]
    return any(typing.get_origin(part) is tuple for part in parts)


def test_an_option_that_several_have_has_one_meaning_and_one_kind():
    wrong = []
    for name, owners in every_option().items():
        if len(owners) > 1 and name not in SHARED:
            wrong.append(f"{name} of {', '.join(owners)} has no meaning of its own")
        kinds = {frozenset(scalar(kind) - {str}) or frozenset([str]) for kind, _ in owners.values()}
        if len(kinds) > 1:
            wrong.append(f"{name} takes {kinds}")
    plurals = {name: several(next(iter(o.values()))[0]) for name, o in every_option().items()}
    wrong += [
        f"{name} takes one value, {name}s several"
        for name in plurals
        if f"{name}s" in plurals and (plurals[name] or not plurals[f"{name}s"])
        if name != "seed"  # seeds are counted
    ]
    assert wrong == []


def test_every_option_is_told():
    silent = [
        f"{name} of {owner}"
        for name, owners in every_option().items()
        for owner, (_, said) in owners.items()
        if not said and name not in SHARED
    ]
    assert silent == [] and set(SHARED) <= set(every_option())


def test_what_every_command_takes_no_command_takes_otherwise():
    assert not {field.name for field in dataclasses.fields(Shared)} & set(every_option())


@pytest.mark.parametrize("columns", [60, 80])
def test_help_is_as_wide_as_the_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    for words in ([], ["sweep"], ["run", "three_flows"], ["plot"]):
        with pytest.raises(SystemExit):
            cli.main([*words, "--help"])
        assert max(len(line.rstrip()) for line in capsys.readouterr().out.splitlines()) <= columns
