"""Models: a model takes tokens and a visibility, and returns hidden states and logits.

The table `MODELS` lists the built-in models; a user's own class is passed as an object.
"""

from collections.abc import Mapping

from palinode.models.base import LanguageModel as LanguageModel
from palinode.models.base import ModelConfig as ModelConfig
from palinode.models.cost import Cost as Cost
from palinode.models.decoder import DecoderConfig as DecoderConfig
from palinode.models.decoder import gpt2 as gpt2
from palinode.models.decoder import modern as modern
from palinode.models.direction import logits_for as logits_for
from palinode.models.direction import read as read
from palinode.models.encoder_decoder import EncoderDecoderConfig as EncoderDecoderConfig
from palinode.models.hugging_face import HfModel as HfModel
from palinode.models.latent import LatentConfig as LatentConfig
from palinode.models.latent import hlb as hlb
from palinode.models.parts.embedding_loss import EmbeddingLoss as EmbeddingLoss

MODELS: Mapping[str, type[ModelConfig]] = {
    cls.kind: cls for cls in (DecoderConfig, LatentConfig, EncoderDecoderConfig, HfModel)
}
