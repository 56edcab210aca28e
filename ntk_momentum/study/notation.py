"""How statements, labels and numbers' names are shown: formulas are written once.

Statements, notes and captions have theirs in TeX between dollars, as the documentation's pages do,
and one parser reads it for all (latex2mathml): `mathml` for what stands alone, `typeset` as HTML
that breaks into lines and asks for no font, `shown` as Unicode, for terminals and for the text of
figures. What names a number, the key of a record or the label of an axis, is plain text as in
docstrings: lambda_0, H_inf, m^(-1/2), sqrt(x), ||v||, <=, L^ for the pseudo-loss; both render that
too.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from ..errors import require

GREEK = {
    "alpha": "α",
    "beta": "β",
    "gamma": "γ",
    "delta": "δ",
    "epsilon": "ε",
    "eta": "η",
    "theta": "θ",
    "kappa": "κ",
    "lambda": "λ",
}
GREEK |= {"Lambda": "Λ", "Theta": "Θ"}
GREEK |= {"mu": "μ", "rho": "ρ", "sigma": "σ", "phi": "φ", "omega": "ω", "Delta": "Δ", "Sigma": "Σ"}
_SUBSCRIPT = (
    r"min|max|\d+|lazy|lin|ref|high|low|[+-](?=[\s),.;:^‖|/]|$)|[A-Za-z]{1,2}\d*(?![A-Za-z])"
)
_SIGNS = {
    "lambda0": "lambda_0",
    "sum_": "Σ_",
    "&lt;=": "≤",
    "&gt;=": "≥",
    "-&gt;": "→",
    "||": "‖",
    "sqrt(": "√(",
    "H infinity": "H_inf",
    "H_infinity": "H_inf",
    "L^": "L\u0302",  # the pseudo-loss, never a power of the loss
}
_INNER = r"\{[^{}]*\}|\((?:[^()]|\([^()]*\))*\)"
_RAISED = dict(
    zip(
        "0123456789+-−=()abcdefghijklmnoprstuvwxyz⊤′",
        "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᵀ′",
        strict=True,
    )
)
_LOWERED = dict(
    zip("0123456789+-=()aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", strict=True)
)

MARKED = re.compile(r"(`[^`]*`|\$[^$]*\$)")


@functools.cache
def mathml(tex: str, display: str = "inline") -> str:
    """A formula in MathML, which browsers draw without help; "block" for one that stands alone."""
    converter = require("latex2mathml.converter", "formulas")
    return str(converter.convert(tex, display=display))


def typeset(text: str) -> str:
    """HTML of a text: TeX between dollars, `code` between backquotes, and what is written as in
    docstrings, lambda_0, H_inf, m^(-1/2), sqrt(x), ||v||, <=."""
    return "".join(map(_marked, MARKED.split(text)))


def _marked(part: str) -> str:
    """HTML of a piece of text that is all code, all TeX or neither."""
    if part[:1] == "$" and len(part) > 1:
        line = html.escape(in_line(part[1:-1]), quote=False)
        return _scripted(line, _as_html)
    if part[:1] == "`" and len(part) > 1:
        return f"<code>{html.escape(part[1:-1])}</code>"
    return _plain(part)


def _plain(text: str) -> str:
    """HTML of text whose formulas are written as in docstrings."""
    text = html.escape(text)
    for sign, shown in _SIGNS.items():
        text = text.replace(sign, shown)
    text = re.sub(r"√\((\w+)\)", r"√\1", text)
    text = re.sub(r"(?<![A-Za-z])sqrt (?=[\w|])", "√", text)
    text = re.sub(r"(?<![A-Za-z])sqrt\b", "√", text)
    text = re.sub(r"(?<![A-Za-z])(sup|inf|max|min)_(\w)\b", r"\1<sub>\2</sub>", text)
    text = re.sub(
        rf"(?<![A-Za-z])(d?)({'|'.join(GREEK)})(?![a-z])",
        lambda match: match[1] + GREEK[match[2]],
        text,
    )
    text = re.sub(r"(?<![A-Za-z])(\w|L\u0302)_inf(ty)?\b", r"\1<sub>∞</sub>", text)
    text = text.replace("H<sub>∞</sub>", "H<sup>∞</sup>")
    text = re.sub(
        rf"(?<![A-Za-z]{{2}})([\w‖)])_({_INNER}|{_SUBSCRIPT})",
        lambda match: f"{match[1]}<sub>{_bare(match[2])}</sub>",
        text,
    )
    return re.sub(rf"\^({_INNER}|-?\w+)", lambda match: f"<sup>{_bare(match[1])}</sup>", text)


def _bare(text: str) -> str:
    return text[1:-1] if text[0] in "{(" else text


def shown(text: str) -> str:
    """The same as Unicode: H∞, λ₀, t⁻², L̂. A script that Unicode lacks stays behind _ or ^."""
    return "".join(
        _scripted(in_line(part[1:-1]), _at)
        if part[:1] == "$" and len(part) > 1
        else html.unescape(re.sub(r"<(su[bp])>(.*?)</\1>", _script, _plain(part)))
        for part in MARKED.split(text)
    )


def _scripted(line: str, script: Callable[[str, bool], str]) -> str:
    """A formula on one line, its scripts made from the innermost outwards."""
    inner = re.compile("([\ue000\ue001])([^\ue000-\ue002]*)\ue002")
    while inner.search(line):
        line = inner.sub(lambda match: script(match[2], match[1] == "\ue001"), line)
    return line


def _as_html(inner: str, raised: bool) -> str:
    return f"<sup>{inner}</sup>" if raised else f"<sub>{inner}</sub>"


def _script(match: re.Match[str]) -> str:
    return _at(html.unescape(match[2]), match[1] == "sup")


def _at(inner: str, raised: bool) -> str:
    """An exponent or an index in signs of its own, where Unicode has them."""
    inner = inner.replace(" ", "")
    signs = _RAISED if raised else _LOWERED
    if all(sign in signs or sign in "∞♯" for sign in inner):
        return "".join(signs.get(sign, sign) for sign in inner)
    mark = "^" if raised else "_"
    return f"{mark}{inner}" if len(inner) == 1 else f"{mark}({inner})"


_OVER = {"^": "\u0302", "\u02d9": "\u0307", "\u00a8": "\u0308", "\u00af": "\u0304"}
"""What stands above a letter, as a combining sign: hat, dot, two dots, bar."""
_PRIMES = {"\u0307": "′", "\u0308": "″"}
"""The same of a capital that few fonts can put a dot over."""
_SPACED = frozenset("=<>≤≥≪≠≈∼→+−-±⇒∈⪰≻")
_HALVES = {"1/2": "½", "1/4": "¼"}
_SCRIPTS = "(?:[\ue000\ue001][^\ue000-\ue002]*\ue002)*"
_ATOM = re.compile(rf"√?(?:\d+|[^\W\d][\u0302\u0307\u0308′″]?){_SCRIPTS}")


@functools.cache
def in_line(tex: str) -> str:
    """A formula on one line: what stands below begins with U+E000, what stands above with U+E001,
    and both end with U+E002."""
    return _spaced(_in_line(ElementTree.fromstring(mathml(tex))))


def _in_line(node: Any) -> str:
    name = node.tag.rpartition("}")[2]
    parts = [_in_line(child) for child in node]
    if name in ("msub", "msup", "msubsup", "munder", "mover", "munderover"):
        if name == "mover" and (sign := _OVER.get(parts[1])):
            return parts[0] + (_PRIMES.get(sign, sign) if parts[0] in "ΔΛ" else sign)
        if name in ("msup", "mover"):
            parts = [parts[0], "", parts[1]]
        scripts = zip("\ue000\ue001", parts[1:], strict=False)
        base, after = parts[0].rstrip(), " " if re.fullmatch("[a-z]{2,} ", parts[0]) else ""
        return base + "".join(_at_its_place(sign, one) for sign, one in scripts if one) + after
    if name == "mfrac":
        above, below = parts
        above = above if re.fullmatch("[\\w√\ue000-\ue002]+", above) else f"({above})"
        below = below if _ATOM.fullmatch(below) else f"({below})"
        return _HALVES.get(f"{above}/{below}", f"{above}/{below}")
    if name == "msqrt":
        inside = "".join(parts)
        return f"√{inside}" if len(inside) == 1 else f"√({inside})"
    parts = [
        f"({part})" if _is_fraction(child) and "/" in part and _is_factor(node[k + 1 :]) else part
        for k, (child, part) in enumerate(zip(node, parts, strict=True))
    ]
    said = "".join(parts) or (node.text or "").replace("\u00a0", " ")
    if name == "mspace" or (name in ("mo", "mi") and said in _SPACED):
        return f" {said} "
    return f"{said} " if name in ("mi", "mo") and len(said) > 1 else said


def _at_its_place(sign: str, script: str) -> str:
    return script if script in "\u2032\u2033" else f"{sign}{script}\ue002"  # primes are raised


def _is_fraction(node: Any) -> bool:
    return node.tag.endswith("mfrac") or (
        node.tag.endswith("mstyle") and len(node) == 1 and _is_fraction(node[0])
    )


def _is_factor(after: Any) -> bool:
    """Whether what stands here multiplies what stands before it."""
    found = next((one for one in after if not one.tag.endswith("mspace")), None)
    while found is not None and len(found):
        found = found[0]
    return found is not None and (not found.tag.endswith("mo") or found.text in tuple("([{‖√∑"))


def _spaced(line: str) -> str:
    """Signs of a sign, names of functions and commas with the space that print gives them."""
    line = re.sub(r" +", " ", line).strip()
    line = re.sub("(^|[=≤≥<>~→(\\[{,\ue000\ue001]) ?([−+±]) ", r"\1 \2", line)
    line = re.sub("([(\\[{\ue000\ue001]) ", r"\1", re.sub(r",(?=\S)", ", ", line))
    return re.sub(r"([a-z]{2}) (?=[(‖|√)])", r"\1", line).strip()
