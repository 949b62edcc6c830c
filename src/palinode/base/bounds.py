"""The largest values that settings may have, all in one place. The bounds catch typing errors; no real experiment reaches a bound.

Without the bounds, a number of 19 digits would overflow the 64-bit integers of PyTorch, and a model of a billion layers would be
built layer by layer. A model within the bounds may still be too large for a machine: before a model is made, the program compares
the memory of the machine with the number of parameters.
"""

from __future__ import annotations

LARGEST_COUNT = 2**53  # the most tokens, steps or other counted things: a float holds every whole number up to 2^53
# The largest dimension of a model: a width, or a number of heads, states or taps. The product of two dimensions fits into 64 bits.
LARGEST_SIZE = 2**31 - 1
MOST_LAYERS = 1024  # describing a layer takes a few milliseconds; the deepest published Transformer has 1,000 layers
MOST_PARTS = 64  # the most parts that one layer makes in sequence: the order of a filter, the number of inner layers
LARGEST_MULTIPLE = 2.0**16  # the largest factor between two widths, such as an MLP's width and the model's
LONGEST_WINDOW_TOKENS = 2**24  # the longest published context has 10 million tokens
