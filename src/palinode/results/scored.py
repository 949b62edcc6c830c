"""What the sum of nats of an evaluation pass is about, as a result stores it, and whether two such sums may be compared.

T is the tokens of a window that are scored. G is the other tokens of the window that may inform the prediction of some token of T.
A sum over all tokens and a sum over a few hidden tokens, given the rest, are both in nats and answer different questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from palinode.base.config import Config

if TYPE_CHECKING:
    from palinode.results.record import Result

Kind = Literal["likelihood", "pseudo", "reconstruction"]
KIND_WORDS: Mapping[Kind, str] = {
    "likelihood": "a likelihood",
    "pseudo": "a pseudo-likelihood",
    "reconstruction": "a reconstruction",
}


class ScoredText(Config):
    """What the sum of nats of one evaluation pass over one split is about.

    Attributes:
        kind: `likelihood`: the sum is -ln p(T given G) of every window. `pseudo`: a token is scored twice or with another weight
            than others, or the tokens of T inform each other in a circle, so the sum is no code length. `reconstruction`: the
            objective predicts tokens that the model sees.
        tokens: the number of tokens in T; the mean over the windows of full length.
        given: the number of tokens in G; the mean over the windows of full length.
        windows: the number of windows, a shorter last window included.
        windows_sha256: the hash of the token ids of all windows, in order.
        tokens_sha256: the hash of one number for each of these tokens: 1 for a token of T, 2 for a token of G, 0 for another one.
    """

    kind: Kind
    tokens: float
    given: float
    windows: int
    windows_sha256: str
    tokens_sha256: str

    @property
    def words(self) -> str:
        """Such as `38 tokens given 218`, or `256 given none` after the word `tokens` was said."""
        return f"{self.tokens:g} tokens given {f'{self.given:g}' if self.given else 'none'}"


def comparable(first: Result, second: Result, split: str, first_pass: str, second_pass: str) -> str | None:
    """The reason why the nats of two runs on a split must not be compared; None if they may be, or if it is not known.

    This matters only for metrics in nats; accuracies answer to other rules. Results of versions that did not store what a sum is
    about, and imported results, are not judged.

    Args:
        first_pass, second_pass: the pass of each run that gives the score.

    Returns:
        such as `not comparable: masked scores 38 tokens given 218, ltr 256 given none`.
    """
    one, other = first.scored.get(split, {}).get(first_pass), second.scored.get(split, {}).get(second_pass)
    if one is None or other is None:
        return None
    if (one.tokens, one.given) != (other.tokens, other.given):
        why = f"{first_pass} scores {one.words}, {second_pass} {other.words.replace(' tokens', '', 1)}"
    elif one.windows_sha256 != other.windows_sha256:
        why = f"{first_pass} and {second_pass} score other windows"
    elif one.tokens_sha256 != other.tokens_sha256:
        why = f"{first_pass} and {second_pass} score other tokens of the same windows, or are given other tokens"
    elif one.kind != other.kind:
        why = f"{first_pass} is {KIND_WORDS[one.kind]}, {second_pass} is {KIND_WORDS[other.kind]}"
    else:
        return None
    return f"not comparable: {why}"
