"""Every mixer of the table at its defaults, two-sided where it can be, and with the options that change what it computes."""

from palinode.models.mixers import MIXERS
from palinode.models.mixers.attention import SlidingWindowConfig
from palinode.models.mixers.base import MixerConfig, TwoSidedConfig
from palinode.models.mixers.convolutional import BaseConvConfig, HyenaConfig, LongConvConfig, MonarchConfig
from palinode.models.mixers.state_space import H3Config, S4dConfig
from palinode.models.parts.fft_conv import SineFilterConfig

LEARNED = SineFilterConfig(features=7, width=8, inner_layers=1, trained_features=True)
VARIANTS: dict[str, MixerConfig] = {
    **{kind: made() for kind, made in MIXERS.items()},
    **{
        f"{kind}, two-sided": made(two_sided=True)
        for kind, made in MIXERS.items()
        if issubclass(made, TwoSidedConfig) and made is not BaseConvConfig
    },
    "sliding_window, 3": SlidingWindowConfig(window=3),
    "sliding_window, 2": SlidingWindowConfig(window=2),
    "long_conv, channels": LongConvConfig(channels=2, squash=0.0, kernel_start="random", two_sided=True),
    "hyena, order 3": HyenaConfig(order=3, taps=5, filter=LEARNED, two_sided=True),
    "base_conv, silu": BaseConvConfig(silu=True, taps=5),
    "base_conv, implicit": BaseConvConfig(conv="implicit", two_sided=True),
    "base_conv, explicit": BaseConvConfig(conv="explicit", two_sided=True),
    "monarch, residual": MonarchConfig(residual_conv=True, two_sided=True, filter=LEARNED),
    "h3, groups": H3Config(head_width=4, two_sided=True),
    "s4d, glu": S4dConfig(glu=True),
}
