"""Cuts a stream of text into chunks at places where no word of a tokenizer is cut."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# A safe cut is between a letter or digit and a single space that starts a word. The pre-tokenizer of GPT-2 and its successors
# always cut at such a place too, so the ids of the parts are the ids of the whole text.
SAFE_CUT = re.compile(r"(?<=\w)(?= \w)")
SEARCHED_CHARACTERS = 4096
LOOK_AHEAD_CHARACTERS = 2  # the number of characters after a cut that the pattern must see


class Chunks:
    """A buffer that takes pieces of a text and gives chunks of about `characters` characters that end at safe places."""

    def __init__(self, characters: int):
        self.characters = characters
        self._waiting: list[str] = []
        self._length = 0

    def feed(self, piece: str) -> Iterator[str]:
        """Take the next piece and give the chunks that are complete now."""
        self._waiting.append(piece)
        self._length += len(piece)
        if self._length <= self.characters + LOOK_AHEAD_CHARACTERS:
            return
        *chunks, last = cut(self.rest(), self.characters, LOOK_AHEAD_CHARACTERS)
        self._waiting, self._length = [last], len(last)
        yield from chunks

    def rest(self) -> str:
        """Give the text after the last chunk, and empty the buffer."""
        text = "".join(self._waiting)
        self._waiting, self._length = [], 0
        return text


def in_chunks(pieces: Iterable[str], characters: int) -> Iterator[str]:
    """The text of the pieces, in chunks of about `characters` characters; the ends of the pieces do not matter."""
    chunks = Chunks(characters)
    for piece in pieces:
        yield from chunks.feed(piece)
    if rest := chunks.rest():
        yield rest


def cut(text: str, most_characters: int, look_ahead_characters: int = 0) -> Iterator[str]:
    """Consecutive parts of a text, each at most `most_characters` long. A part ends at a safe place where there is one.

    The last part may be longer by `look_ahead_characters`.
    """
    start = 0
    while len(text) - start > most_characters + look_ahead_characters:
        end = safe_end(text, start, start + most_characters)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def safe_end(text: str, start: int, end: int) -> int:
    """The last safe place to cut in (start, end], or `end` if the last SEARCHED_CHARACTERS have no safe place."""
    low = max(start + 1, end - SEARCHED_CHARACTERS)
    places = [match.start() for match in SAFE_CUT.finditer(text, low, min(end + 2, len(text)))]
    usable = [place for place in places if start < place <= end]
    return usable[-1] if usable else end
