"""Pages read as a browser would: text, pictures, and what they would fetch."""

import base64
import html.parser
import io

from PIL import Image

VOID = {"meta", "img"}


class Page(html.parser.HTMLParser):
    """Text, images with their captions, and links of a page; fails where tags do not close in order."""

    def __init__(self, path):
        super().__init__()
        self.text, self.images, self.drawings, self.captions = "", [], [], []
        self.tags, self.outside, self._open = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        named = dict(attrs)
        if tag == "img":
            kind, _, data = named["src"].partition(",")
            data = base64.b64decode(data, validate=True)
            if kind == "data:image/svg+xml;base64":
                self.drawings.append(data.decode())
            else:
                assert kind == "data:image/png;base64"
                self.images.append(Image.open(io.BytesIO(data)))
            assert named["alt"]
            self.captions.append(named["alt"])
        self.outside += [value for name, value in attrs if name in ("src", "href") and not value.startswith("data:")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] not in (["style"], ["script"]):
            self.text += data
