"""Mixers: the table `MIXERS` lists the built-in mixer configs; a user's own config is passed as an object."""

from collections.abc import Mapping

from palinode.models.mixers.attention import AttentionConfig, LinearAttentionConfig, SlidingWindowConfig
from palinode.models.mixers.base import MixerConfig
from palinode.models.mixers.convolutional import BaseConvConfig, HyenaConfig, LongConvConfig, MonarchConfig
from palinode.models.mixers.recurrent import GatedRnnConfig, SelectiveSsmConfig
from palinode.models.mixers.state_space import H3Config, S4dConfig

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
