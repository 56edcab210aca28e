"""Formulas as MathML when the site is built, and nothing that a page would fetch from the
network."""

import html
import re

from latex2mathml.converter import convert
from mkdocs.utils import get_relative_url

ARITHMATEX = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
CELL = re.compile(r'(<div class="[^"]*jp-RenderedMarkdown[^"]*"[^>]*>)(.*?)(</div>)', re.DOTALL)
DOLLARS = re.compile(r"\$([^$<>]+)\$")
SHIM = "https://unpkg.com/iframe-worker/shim"


def on_page_content(content, page, config, files):
    """Formulas of Markdown pages, as arithmatex leaves them, and of the Markdown cells of
    notebooks."""
    content = ARITHMATEX.sub(
        lambda m: mathml(m[2], "block" if m[1] == "div" else "inline"), content
    )
    return CELL.sub(
        lambda m: m[1] + DOLLARS.sub(lambda f: mathml(f[1], "inline"), m[2]) + m[3], content
    )


def on_post_page(output, page, config):
    """Search in pages opened from the disk needs a shim, of which a copy lies here."""
    return output.replace(SHIM, get_relative_url("javascript/iframe-worker.js", page.url))


def on_post_template(output, template_name, config):
    """The same for the page that says a page is missing."""
    return output.replace(SHIM, "/javascript/iframe-worker.js")


def mathml(tex, display):
    """One formula."""
    return convert(html.unescape(tex), display=display)
