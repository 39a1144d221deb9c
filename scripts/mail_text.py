"""The text of a mail, for a classifier: the subject and what a reader sees of the body, nothing else.

All other headers are left out: which servers a mail passed, its list, its date and what a filter wrote into it say
which collection it comes from, not what it is.
"""

import email
import re
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from html.parser import HTMLParser

# Put in front of the subject and at the foot of the body by a mailing list, not by the author.
LIST_TAG = re.compile(r"^\s*((re|fw|fwd|aw|sv)(\[\d+\])?:\s*)*\[[^\]]{1,30}\]\s*", re.IGNORECASE)
LIST_FOOTER = re.compile(r"\n[ \t]*_{20,}[ \t]*\n(?=[^\n]*(mailing list|list maintainer))", re.IGNORECASE)


class _Visible(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style") and self._hidden > 0

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(data)


def visible_text(html: str) -> str:
    """What a browser shows of a page, without its layout."""
    parser = _Visible()
    parser.feed(html)
    parser.close()
    return " ".join(parser.pieces)


def subject(message: Message) -> str:
    """The subject, decoded (RFC 2047), without the tag of a mailing list."""
    raw = str(message.get("Subject", ""))
    try:
        pieces = decode_header(raw)
    except HeaderParseError:
        pieces = [(raw, None)]
    text = "".join(p.decode("latin-1") if isinstance(p, bytes) else p for p, _ in pieces)
    tag = LIST_TAG.match(text)
    return text if tag is None else (tag.group(1) or "") + text[tag.end() :]


def body(message: Message) -> str:
    """The plain-text parts, or where there are none the visible text of the HTML parts."""
    parts: dict[str, list[str]] = {"text/plain": [], "text/html": []}
    for part in message.walk():
        kind = part.get_content_type()
        if kind in parts and part.get_filename() is None:
            payload = part.get_payload(decode=True)
            if isinstance(payload, bytes):
                parts[kind].append(payload.decode("latin-1"))
    plain = "\n".join(parts["text/plain"])
    text = plain if plain.strip() else "\n".join(visible_text(h) for h in parts["text/html"])
    footer = LIST_FOOTER.search(text)
    return text if footer is None else text[: footer.start()]


def mail_text(raw: bytes) -> str:
    """Subject, a line break, body; runs of white space within each are one space."""
    message = email.message_from_bytes(raw)
    return " ".join(subject(message).split()) + "\n" + " ".join(body(message).split())
