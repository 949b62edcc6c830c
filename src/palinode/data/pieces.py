"""Cuts a stream of text into chunks at places where no tokenizer's word is cut."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# A cut between a letter or digit and a single space that starts a word: GPT-2's pre-tokenizer (and its successors) always
# cut there too, so encoding the parts equals encoding the whole.
SAFE_CUT = re.compile(r"(?<=\w)(?= \w)")
SEARCHED_CHARACTERS = 4096
LOOK_AHEAD_CHARACTERS = 2  # what the pattern must see behind a cut


class Chunks:
    """Collects pieces of a text, of any sizes, and gives chunks of about `characters` that end at safe places; then the rest."""

    def __init__(self, characters: int):
        self.characters = characters
        self._waiting: list[str] = []
        self._length = 0

    def feed(self, piece: str) -> Iterator[str]:
        """Take the next piece; gives the chunks that are complete now."""
        self._waiting.append(piece)
        self._length += len(piece)
        if self._length <= self.characters + LOOK_AHEAD_CHARACTERS:
            return
        text, start = self.rest(), 0
        while len(text) - start > self.characters + LOOK_AHEAD_CHARACTERS:
            end = safe_end(text, start, start + self.characters)
            yield text[start:end]
            start = end
        self._waiting, self._length = [text[start:]], len(text) - start

    def rest(self) -> str:
        """The text after the last chunk."""
        text = "".join(self._waiting)
        self._waiting, self._length = [], 0
        return text


def in_chunks(pieces: Iterable[str], characters: int) -> Iterator[str]:
    """The same text in chunks of about `characters`, wherever its pieces end."""
    chunks = Chunks(characters)
    for piece in pieces:
        yield from chunks.feed(piece)
    if rest := chunks.rest():
        yield rest


def cut(text: str, most_characters: int) -> Iterator[str]:
    """Consecutive parts of at most `most_characters` that join to the text, cut at a safe place wherever there is one."""
    start = 0
    while len(text) - start > most_characters:
        end = safe_end(text, start, start + most_characters)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def safe_end(text: str, start: int, end: int) -> int:
    """The last safe place to cut in (start, end], or `end` if there is none in the last SEARCHED_CHARACTERS."""
    low = max(start + 1, end - SEARCHED_CHARACTERS)
    places = [match.start() for match in SAFE_CUT.finditer(text, low, min(end + 2, len(text)))]
    usable = [place for place in places if start < place <= end]
    return usable[-1] if usable else end
