"""Writes the tables of keys into docs/configuration.md: `python -m tests.key_tables`."""

from pathlib import Path

from vhost9p.reference import table

DOCUMENT = Path(__file__).parents[1] / "docs/configuration.md"


def fill(text: str) -> str:
    """Returns a document with each table between its marks, `<!-- keys of … -->` and the end."""
    for whose, rows in table.tables():
        before, mark, rest = text.partition(f"<!-- {whose} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        assert mark and end, f"the marks for the {whose} are missing"
        text = f"{before}{mark}{rows}{end}{after}"
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(fill(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
