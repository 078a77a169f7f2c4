"""Tables of a page. All text that is handed in is escaped."""

from collections.abc import Collection, Iterable
from html import escape

from models.pages.words import plain


def text_html(text: str) -> str:
    """Escape what a page would obey instead of showing it."""
    return escape(plain(text))


def table_html(
    heads: list[str], rows: list[list[str]], numbers: tuple[int, ...] = (), marked: Collection[int] = ()
) -> str:
    """Lay out a table; `numbers` are the places of its columns of numbers, `marked` those of rows that stand out."""

    def cells(tag: str, values: list[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if place in numbers else ''}>{text_html(value)}</{tag}>"
            for place, value in enumerate(values)
        )

    lines = "".join(
        f"<tr{' class=m' if place in marked else ''}>{cells('td', row)}</tr>" for place, row in enumerate(rows)
    )
    return f"<table><tr>{cells('th', heads)}</tr>{lines}</table>" if rows else "<p>None.</p>"


def facts_html(caption: str, facts: Iterable[tuple[str, str]]) -> str:
    """Lay out names and values, a line each."""
    lines = "".join(
        f'<tr><th scope="row">{text_html(name)}</th><td>{text_html(value)}</td></tr>' for name, value in facts
    )
    return f"<table><caption>{text_html(caption)}</caption>{lines}</table>"
