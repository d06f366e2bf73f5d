"""Pages for tests: their elements and their text, and a text that tries to become markup."""

from __future__ import annotations

from html.parser import HTMLParser

HOSTILE = "\"'></style><script>alert(1)</script><img src=//x.example onerror=alert(2)>"
# Elements of HTML without an end tag; those of SVG end with "/>".
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """The elements and the text of a page; raises unless all elements are closed in order."""

    def __init__(self, data):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(data.decode())
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, *tags):
        return [attrs for tag, attrs in self.elements if tag in tags]
