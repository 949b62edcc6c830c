"""The largest values that settings may have, all in one place. They stop a slip of the keyboard, and no experiment of today.

Without them a number of 19 digits would overflow PyTorch's 64 bits, and a billion layers would be built one after the other. A
model within the bounds may still be too large for a machine: its memory is compared with the parameters before anything is made.
"""

from __future__ import annotations

LARGEST_COUNT = 2**53  # of tokens, steps, anything that is counted: a float holds every whole number up to here
# Of one dimension of a model: a width, heads, states, taps. PyTorch counts the product of two of them in 64 bits.
LARGEST_SIZE = 2**31 - 1
MOST_LAYERS = 1024  # each takes a few milliseconds to describe; the deepest published Transformer has 1,000
MOST_PARTS = 64  # of parts inside a layer that are made one after the other: the order of a filter, its inner layers
LARGEST_MULTIPLE = 2.0**16  # of a width
LONGEST_WINDOW_TOKENS = 2**24  # the longest published context has 10 million tokens
