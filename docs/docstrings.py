"""Docstrings are plain text with formulas in the paper's letters: keep Markdown from reading <, *
and | in them as markup."""

import re

import griffe

ENTITIES = {"<": "&lt;", ">": "&gt;", "*": "&#42;", "|": "&#124;"}
FIELD = re.compile(r"\.\n(?=[A-Za-z][\w, ]*: )")  # a line that explains another argument
SPECIAL = re.compile(r"(`[^`]*`)|([<>*|])")


def plain(line):
    return line if line.startswith("    ") else SPECIAL.sub(lambda m: m[1] or ENTITIES[m[2]], line)


class PlainDocstrings(griffe.Extension):
    """Escapes every docstring, but for indented lines and code in backticks."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            text = FIELD.sub(".\n\n", obj.docstring.value)
            obj.docstring.value = "\n".join(plain(line) for line in text.splitlines())
