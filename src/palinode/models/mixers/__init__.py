"""Mixers: the table below is all there is; a user's own config is passed as an object."""

from collections.abc import Mapping

from palinode.models.mixers.attention import AttentionConfig
from palinode.models.mixers.base import MixerConfig

MIXERS: Mapping[str, type[MixerConfig]] = {cls.kind: cls for cls in (AttentionConfig,)}
