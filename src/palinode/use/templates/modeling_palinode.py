"""A model of Palinode for transformers. It keeps no cache, and reads no padding: rows of one batch have one length."""

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from palinode.base.config import decode
from palinode.base.visibility import Ltr
from palinode.spec.code import user_kinds
from palinode.spec.load import load_run
from palinode.spec.run_spec import RunSpec


class PalinodeConfig(PretrainedConfig):
    """The spec of the run, the number of ids, and the longest row."""

    model_type = "palinode"
    palinode_spec: Any = None
    palinode_slots: int = 1

    def spec(self) -> RunSpec:
        """The spec of the run. The folder holds the code that a user wrote; `trust_remote_code` has allowed it."""
        if not user_kinds(self.palinode_spec):
            return decode(RunSpec, self.palinode_spec)
        return next(load_run(one.parent, allow_code=True) for one in Path(self.name_or_path).glob("*/spec.json"))


class PalinodeForCausalLM(PreTrainedModel, GenerationMixin):
    """The logits of what follows each token."""

    config_class = PalinodeConfig
    base_model_prefix = "palinode"

    def __init__(self, config: PalinodeConfig):
        super().__init__(config)
        with torch.device("cpu"):  # transformers builds on a device without values, and specs are checked with values
            self.palinode = config.spec().model.build(config.vocab_size, config.palinode_slots, 0)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Every weight is read from the file."""

    def forward(self, input_ids: torch.Tensor, **ignored: Any) -> CausalLMOutput:
        """(B, T) ids -> (B, T, V) logits."""
        return CausalLMOutput(logits=self.palinode.logits(self.palinode.hidden(input_ids, Ltr())))

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **ignored: Any) -> dict[str, torch.Tensor]:
        """The whole rows, which are read again for each new token."""
        return {"input_ids": input_ids}
