"""HTML pages of one file each, readable in light and dark, without scripts and without anything from elsewhere."""

from collections.abc import Iterable
from html import escape

STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #5b6670; --line: #d9dee3; --page: #ffffff; --card: #f4f6f8;
  --good: #0f7b3f; --bad: #c2231b; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ec; --soft: #a3adb6; --line: #3a4148; --page: #15181b;
  --card: #1f2428; --good: #5fd38d; --bad: #ff8a80; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h1 { margin-bottom: .3rem; }
p { max-width: 48rem; } .soft { color: var(--soft); } .good { color: var(--good); } .bad { color: var(--bad); }
.notice { border-left: 4px solid var(--bad); padding-left: .7rem; }
.totals { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
.totals div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .9rem; }
.totals b { display: block; font-size: 1.5rem; line-height: 1.2; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .5rem .8rem; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; white-space: nowrap; } td.name { overflow-wrap: anywhere; min-width: 8rem; }
img { display: block; max-width: 100%; height: auto; image-rendering: pixelated; border-radius: .25rem; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: .2em; margin: 0 .3em 0 .8em; }
code, pre { font: 14px/1.5 ui-monospace, monospace; background: var(--card); border-radius: .25rem; }
code { padding: .1em .3em; } pre { padding: .7rem .9rem; overflow-x: auto; }
figure { margin: 1rem 0; } figcaption { color: var(--soft); }
.pair { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
a { color: inherit; }
""".strip()


def page(title: str, *parts: str) -> str:
    """A whole page; `title` is text, the parts are HTML."""
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>",
            f"<h1>{escape(title)}</h1>",
            *parts,
            "</body>\n</html>\n",
        ]
    )


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; heads are text, cells are HTML, with or without their <td>."""
    cells = ("".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row) for row in rows)
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "\n".join(f"<tr>{row}</tr>" for row in cells)
    return f'<div class="wide"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def totals(figures: Iterable[tuple[str, str]]) -> str:
    """Figures with what they count, both text: [("12", "cases"), …]."""
    boxes = "".join(f"<div><b>{escape(figure)}</b>{escape(what)}</div>" for figure, what in figures)
    return f'<div class="totals">{boxes}</div>'


def legend(colours: Iterable[tuple[tuple[int, int, int], str]]) -> str:
    """What the colours of the pictures mean."""
    items = "".join(
        f'<span class="swatch" style="background: rgb{colour}"></span>{escape(text)}' for colour, text in colours
    )
    return f"<p>{items}</p>"
