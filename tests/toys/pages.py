"""A page of a report as its tags, links, texts and tables, by the parser of the standard library."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags, links, texts, the titled cells, and every table as rows of texts."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.texts, self.cells, self.tables = [], [], [], {}, []
        self._title = None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        within = self._title if tag == "span" else None  # a part of a titled cell
        self._title = dict(attrs).get("title", within)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_data(self, text):
        self.texts.append(text)
        if self._title:
            self.cells.setdefault(self._title, text)
        if text.strip() and self.tables and self.tables[-1]:
            self.tables[-1][-1][-1] += text

    def handle_endtag(self, tag):
        self._title = None
        if tag == "table":
            self.tables.append([])

    def columns(self, name):
        """The first table that has a column of that name: heading -> texts."""
        return self.all_columns(name)[0]

    def all_columns(self, name):
        """Every table that has a column of that name, as with `columns`."""
        tables = [rows for rows in self.tables if rows and name in rows[0]]
        return [dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True)) for rows in tables]
