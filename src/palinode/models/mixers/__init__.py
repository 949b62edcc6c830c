"""Mixers: the table lists the built-in ones; a user's own config is passed as an object."""

from collections.abc import Mapping

from palinode.models.mixers.attention import AttentionConfig
from palinode.models.mixers.base import MixerConfig
from palinode.models.mixers.base_conv import BaseConvConfig
from palinode.models.mixers.gated_rnn import GatedRnnConfig
from palinode.models.mixers.h3 import H3Config
from palinode.models.mixers.hyena import HyenaConfig
from palinode.models.mixers.linear_attention import LinearAttentionConfig
from palinode.models.mixers.long_conv import LongConvConfig
from palinode.models.mixers.monarch import MonarchConfig
from palinode.models.mixers.s4d import S4dConfig
from palinode.models.mixers.selective_ssm import SelectiveSsmConfig
from palinode.models.mixers.sliding_window import SlidingWindowConfig

MIXERS: Mapping[str, type[MixerConfig]] = {
    cls.kind: cls
    for cls in (
        AttentionConfig,
        SlidingWindowConfig,
        LongConvConfig,
        HyenaConfig,
        BaseConvConfig,
        MonarchConfig,
        LinearAttentionConfig,
        S4dConfig,
        H3Config,
        SelectiveSsmConfig,
        GatedRnnConfig,
    )
}
