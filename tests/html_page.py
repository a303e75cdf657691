"""Parser of the HTML pages that the package writes."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Addresses, texts and tags of a page, whose elements must be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.open, self.text, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, attributes))
        self.sources.extend(value for name, value in attributes if name in ("src", "href"))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
