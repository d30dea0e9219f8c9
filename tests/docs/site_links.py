"""What the pages of a built site lead to and ask for."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

# What a browser fetches without being asked.
FETCHED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src")}
FETCHED |= {("video", "src"), ("audio", "src"), ("object", "data"), ("link", "href")}


@dataclass
class Page(HTMLParser):
    """One page: its anchors, what it leads to, and what it fetches."""

    anchors: set = field(default_factory=set)
    leads: list = field(default_factory=list)
    fetches: list = field(default_factory=list)

    def __post_init__(self):
        super().__init__()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        for name, value in attrs:
            if (tag, name) in FETCHED and value:
                self.fetches.append(value)
            elif (tag, name) == ("a", "href") and value:
                self.leads.append(value)


def read(text):
    """Read a page."""
    page = Page()
    page.feed(text)
    page.close()
    return page


def broken(folder):
    """Yield what leads to nothing, and what would be fetched from another host."""
    # What the theme keeps in _static are templates.
    paths = [path for path in folder.rglob("*.html") if path.parent.name != "_static"]
    pages = {path: read(path.read_text(encoding="utf-8")) for path in paths}
    for path, page in sorted(pages.items()):
        name = path.relative_to(folder)
        for target in page.fetches:
            if urlsplit(target).scheme not in ("", "data") or urlsplit(target).netloc:
                yield f"{name} fetches {target}"
        for target in [*page.leads, *page.fetches]:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            there = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            if not there.is_file():
                yield f"{name} leads to {target}, which is not there"
                continue
            # The explorer's own addresses are made by its script.
            known = there in pages and there.parent.name != "live"
            if parts.fragment and known and unquote(parts.fragment) not in pages[there].anchors:
                yield f"{name} leads to {target}, where there is no such anchor"
