"""The one notation of statements, notes, labels and captions, and how it is shown.

Formulas are written once, in plain text as in docstrings: lambda_0, H_inf, m^(-1/2), sqrt(x),
||v||, <=, L^ for the pseudo-loss. From that `typeset` makes HTML for the report and `shown` Unicode
for the labels of figures, which stay text there.
"""

from __future__ import annotations

import html
import re

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
    "R^,": "R\u0302,",
}
_INNER = r"\{[^{}]*\}|\((?:[^()]|\([^()]*\))*\)"
_RAISED = dict(
    zip(
        "0123456789+-=()abcdefghijklmnoprstuvwxyz",
        "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ",
        strict=True,
    )
)
_LOWERED = dict(
    zip("0123456789+-=()aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", strict=True)
)


def typeset(text: str) -> str:
    """HTML of plain text whose formulas are written as in docstrings: lambda_0, H_inf, m^(-1/2),
    sqrt(x), ||v||, <=. What stands in backquotes is code."""
    if text.count("`") > 1:
        parts = text.split("`")
        code = [f"<code>{html.escape(part)}</code>" for part in parts[1::2]]
        return "".join(a + b for a, b in zip(map(typeset, parts[::2]), [*code, ""], strict=False))
    text = html.escape(text)
    for sign, shown in _SIGNS.items():
        text = text.replace(sign, shown)
    text = re.sub(r"(?<![A-Za-z])sqrt (?=[\w|])", "√", text)
    text = re.sub(r"(?<![A-Za-z])sqrt\b", "√", text)
    text = re.sub(
        r"(?<![A-Za-z])int(_0|(?= ))",
        lambda match: "∫" + match[1].replace("_0", "<sub>0</sub>"),
        text,
    )
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

    def script(match: re.Match[str]) -> str:
        signs = _RAISED if match[1] == "sup" else _LOWERED
        inner = html.unescape(match[2])
        if all(sign in signs or sign == "∞" for sign in inner):
            return "".join(signs.get(sign, sign) for sign in inner)
        mark = "^" if match[1] == "sup" else "_"
        return f"{mark}{inner}" if len(inner) == 1 else f"{mark}({inner})"

    return html.unescape(re.sub(r"<(su[bp])>(.*?)</\1>", script, typeset(text)))
