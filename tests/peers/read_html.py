"""What a mail program sees: of each .eml the plain text and the HTML part, of each .html the text as it is.

usage: read_html.py FILE…     prints a list: [{"plain", "tags": [[name, {attribute: value}], …], "data"}, …]
"""

import email
import email.policy
import html.parser
import json
import pathlib
import sys


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []
        self.data = []

    def handle_starttag(self, tag, attrs):
        self.tags.append([tag, dict(attrs)])

    def handle_endtag(self, tag):
        self.tags.append(["/" + tag, {}])

    def handle_data(self, data):
        self.data.append(data)


def read(path):
    path = pathlib.Path(path)
    plain, text = None, None
    if path.suffix == ".html":
        text = path.read_text(encoding="utf-8")
    else:
        mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        for part in mail.walk():
            if part.get_content_type() == "text/plain":
                plain = part.get_content()
            if part.get_content_type() == "text/html":
                text = part.get_content()
    reader = Reader()
    reader.feed(text or "")
    reader.close()
    return {"plain": plain, "tags": reader.tags, "data": "".join(reader.data)}


print(json.dumps([read(path) for path in sys.argv[1:]]))
