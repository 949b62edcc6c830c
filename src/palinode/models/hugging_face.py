"""Open models: a model of transformers with its own weights, read from a folder or from a GGUF file of an installed package.

Nothing is fetched, and no code that a folder brings is run. The ids of the tokenizer keep their rows; Palinode's special tokens are
rows after them: `[L]` starts as a copy of the bos row, the others as the mean row.
Legend: B rows, T slots, T_new new slots, D width, V vocabulary, L blocks.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from palinode.base import fsio
from palinode.base.config import LATER
from palinode.base.errors import BadInput, EnvironmentProblem
from palinode.base.example import SPECIAL_NAMES
from palinode.base.folders import GGUF, PACKAGE, converted_folder, file_sha256, package_file
from palinode.base.head import LinearHead
from palinode.base.seeds import generator
from palinode.base.visibility import Visibility
from palinode.models.base import LanguageModel, ModelConfig
from palinode.models.cost import Cost, visible_pairs
from palinode.models.parts.exact import exact
from palinode.models.parts.state import ModelState
from palinode.models.stack import mask_of

SOURCE = "source"
WEIGHTS, CONFIG = "*.safetensors", "config.json"
HEX_SHA256 = r"[0-9a-f]{64}"
RtlPositions = Literal["flipped", "text"]
BLOCKS = ("layers", "h", "blocks")  # the names of the list of blocks in models of transformers


class HfModel(ModelConfig):
    """A causal model of transformers with its own weights.

    Attributes:
        source: a folder with config.json and safetensors files, or `package:NAME/FILE.gguf` for a file of an installed package. A
            name on a hub is refused: a run must not fetch.
        weights_sha256: the hash of the weights and of config.json, which the resolution of a spec fills in.
        keep_layers: the indexes of the blocks that are kept; None: all. A text model without some of its blocks is destroyed.
        train: `all`, `lora` (low-rank maps beside the frozen linear maps of the blocks), `head` (the map to logits), or `last:N`
            (the last N blocks and the final norm).
        rtl_positions: the positions of a row that is read from its end: `flipped` (they count from the right end, as in our own
            models) or `text` (those of the text, as if an upper-triangular mask were laid over it; needs rotary positions).
        lora_rank, lora_alpha: the rank r of the low-rank maps, and alpha: y = W x + (alpha / r) B A x, where B starts at 0.
    """

    kind: ClassVar[str] = "hf"
    source: Annotated[str, Field(min_length=1)]
    weights_sha256: Annotated[str, Field(pattern=HEX_SHA256)] | None = None
    keep_layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    train: Annotated[str, Field(pattern=r"^(all|lora|head|last:[1-9][0-9]*)$")] = "all"
    lora_rank: int = Field(default=8, ge=1)
    lora_alpha: float = Field(default=16.0, gt=0.0)
    rtl_positions: Annotated[RtlPositions, LATER] = "flipped"

    @field_validator("keep_layers")
    @classmethod
    def _some_in_order(cls, kept: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if kept is not None and (not kept or list(kept) != sorted(set(kept))):
            raise ValueError("must name at least one block, in rising order")
        return kept

    def pinned(self) -> HfModel:
        found = _sha256(source_files(self.source))
        if self.weights_sha256 not in (None, found):
            message = f"{self.source!r} is {found[:12]}... here, the spec was resolved with {str(self.weights_sha256)[:12]}..."
            raise BadInput(message, field="weights_sha256")
        return self.with_(weights_sha256=found)

    def transformers_config(self) -> Any:
        """The config of the model in transformers.

        Raises:
            BadInput: the model needs code of its own, or is no causal model of transformers.
        """
        return _config_of(self._folder())

    def build(self, vocab_size: int, max_length: int, seed: int) -> HfLanguageModel:
        folder = self._folder()
        config = _config_of(folder)
        if torch.empty(0).is_meta:  # a plan needs the shapes alone
            return self._trained(_new(config), vocab_size, max_length, seed)
        if self.weights_sha256 is not None:
            self.pinned()
        return self._trained(_loaded(folder), vocab_size, max_length, seed)

    def _trained(self, lm: Any, vocab_size: int, max_length: int, seed: int) -> HfLanguageModel:
        _keep_blocks(lm, self.keep_layers)
        _refuse_longer(lm, max_length)
        _prepare(lm, vocab_size)
        _set_trainable(lm, self, generator(seed, "init", 1))
        return HfLanguageModel(lm, self.train, vocab_size, max_length, self.rtl_positions)

    def _folder(self) -> Path:
        files = source_files(self.source)
        return _converted(files[0]) if files[0].suffix == GGUF else files[0].parent


class SmallHfModel(ModelConfig):
    """A model of the same class with few narrow blocks and new weights, for the checks before a run.

    Attributes:
        fields: the config of transformers as JSON text.
        rtl_positions: that of the open model.
    """

    kind: ClassVar[str] = "hf-small"
    fields: str
    rtl_positions: Annotated[RtlPositions, LATER] = "flipped"

    def build(self, vocab_size: int, max_length: int, seed: int) -> HfLanguageModel:
        vocab_size = max(vocab_size, 1 + len(SPECIAL_NAMES))  # an audit of auxiliary terms asks for a vocabulary of 1
        fields = {**json.loads(self.fields), "vocab_size": vocab_size - len(SPECIAL_NAMES)}
        is_meta = torch.empty(0).is_meta
        model = _new(_transformers().AutoConfig.for_model(**fields))
        if not is_meta:
            _start(model, generator(seed, "init"))
        _prepare(model, vocab_size)
        return HfLanguageModel(model, "all", vocab_size, max_length, self.rtl_positions)


# --- where the weights come from ------------------------------------------------------------------------------------


def source_files(source: str) -> list[Path]:
    """The files that hold a model: one GGUF file, or config.json and the safetensors files of a folder.

    Raises:
        BadInput: there are no weights there.
        EnvironmentProblem: the package is not installed.
    """
    if source.startswith(PACKAGE):
        path = package_file(source, SOURCE)
        if path.suffix != GGUF:
            raise BadInput(f"{path.name} is no GGUF file", field=SOURCE)
        return [path]
    folder = Path(source).expanduser()
    if not folder.is_dir():
        hint = "a folder, or package:NAME/FILE.gguf; a name on a hub is not read, as a run must not fetch"
        raise BadInput(f"no folder {source!r}", field=SOURCE, hint=hint)
    weights = sorted(folder.glob(WEIGHTS))
    if not weights or not (folder / CONFIG).is_file():
        raise BadInput("no weights there", file=source, field=SOURCE, hint=f"it needs {CONFIG} and {WEIGHTS}")
    return [folder / CONFIG, *weights]


def _sha256(files: list[Path]) -> str:
    return hashlib.sha256("".join(file_sha256(path) for path in files).encode()).hexdigest()


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        hint = "`pip install 'palinode[hf]'`"
        raise EnvironmentProblem("transformers is not installed", field=SOURCE, hint=hint) from None
    log: Any = transformers.utils.logging
    log.disable_progress_bar()
    return transformers


def _config_of(folder: Path) -> Any:
    fields = fsio.read_json(folder / CONFIG)
    known = _transformers().CONFIG_MAPPING
    if not isinstance(fields, dict) or fields.get("model_type") not in known:
        why = (
            "needs code of its own"
            if isinstance(fields, dict) and "auto_map" in fields
            else "is no model of transformers"
        )
        raise BadInput(why, file=str(folder), field=SOURCE)
    return _transformers().AutoConfig.from_pretrained(folder, local_files_only=True)


def _new(config: Any) -> Any:
    """A model without its weights: with values that transformers draws, or on the meta device with none."""
    try:
        with torch.random.fork_rng(devices=()):
            return _transformers().AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    except ValueError as error:
        why = "has no `sdpa` attention in transformers" if "scaled_dot_product" in str(error) else "continues no text"
        raise BadInput(f"{config.model_type} {why}", field=SOURCE) from None


def _loaded(folder: Path) -> Any:
    options = {"local_files_only": True, "dtype": torch.float32, "attn_implementation": "sdpa"}
    try:
        return _transformers().AutoModelForCausalLM.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0][:120]
        raise BadInput(f"cannot be read: {reason}", file=str(folder), field=SOURCE) from error


def _converted(path: Path) -> Path:
    """The folder in the cache with the float32 weights of a GGUF file. They are made once, with config.json as the last file.

    transformers cannot save what it reads from GGUF, so the weights are given to a model that is made from the config alone.
    """
    folder = converted_folder(path)
    if not (folder / CONFIG).is_file():
        with torch.device("cpu"):  # a caller may describe the model on a device without values
            _convert(path, folder)
    return folder


def _convert(path: Path, folder: Path) -> None:
    try:
        from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
    except ImportError:
        raise EnvironmentProblem("gguf is not installed", field=SOURCE, hint="`pip install 'palinode[hf]'`") from None
    load: Any = load_gguf_checkpoint
    read = load(str(path))["config"]
    config = _transformers().AutoConfig.for_model(**{key: value for key, value in read.items() if key[0] != "_"})
    model = _new(config)
    tensors = load(str(path), return_tensors=True, model_to_load=model)["tensors"]
    tensors = {name: torch.as_tensor(value).float().contiguous() for name, value in tensors.items()}
    missing = model.load_state_dict(tensors, strict=False).missing_keys
    if lacking := set(missing) - {"lm_head.weight"}:
        raise BadInput(f"has no weights {sorted(lacking)[0]}", file=str(path), field=SOURCE)
    fsio.write_bytes(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    fields = {key: value for key, value in config.to_dict().items() if key != "quantization_config"}
    fsio.write_json(folder / CONFIG, fields | {"architectures": [type(model).__name__]})


def _start(model: nn.Module, rng: torch.Generator) -> None:
    """Fill every weight from the run's own random stream: N(0, .02^2) for matrices and tables, as transformers starts them."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=rng))


# --- the model ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HfState(ModelState):
    """The state of a model of transformers: the keys and values of the slots that were read."""

    cache: Any


class Lora(nn.Module):
    """The low-rank map (alpha / r) B A x that a frozen linear map W x gets beside it (Hu et al. 2021, arXiv 2106.09685)."""

    role = "adapter"

    def __init__(self, in_width: int, out_width: int, rank: int, alpha: float, rng: torch.Generator):
        super().__init__()
        self.scale = alpha / rank
        first = torch.empty(rank, in_width)
        if not first.is_meta:
            first.uniform_(-1 / math.sqrt(in_width), 1 / math.sqrt(in_width), generator=rng)
        self.a = nn.Parameter(first)
        self.b = nn.Parameter(torch.zeros(out_width, rank))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_width) -> (..., out_width)."""
        return self.scale * F.linear(F.linear(x, self.a), self.b)


def _plus_adapter(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """The hook of a linear map that has an adapter. The map itself keeps its class and the names of its weights."""
    added: Tensor = module.get_submodule("adapter")(*inputs)
    return output + added


class HfLanguageModel(LanguageModel):
    """A causal model of transformers behind the interface of a model of Palinode.

    Attributes:
        lm: the module of transformers.
        train_mode: what is trained, see `HfModel.train`.
        rtl_positions: see `HfModel.rtl_positions`.
        counts_down: whether the positions of a row count down to 0, as those of a flipped row with the positions of its text do.
    """

    compiled_methods: ClassVar[tuple[str, ...]] = ()
    logits_at_once = 2**27  # 512 MiB in float32

    def __init__(
        self, lm: Any, train_mode: str, vocab_size: int, max_length: int, rtl_positions: RtlPositions = "flipped"
    ):
        super().__init__()
        if rtl_positions == "text":
            _refuse_without_rotary(lm)
        self.lm = lm
        self.train_mode = train_mode
        self.vocab_size = vocab_size
        self.max_length = max_length
        self.rtl_positions: RtlPositions = rtl_positions
        self.counts_down = False

    @property
    def inner(self) -> Any:
        """The model without its head."""
        return self.lm.base_model

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks of the model."""
        return _blocks(self.lm)

    def from_end(self) -> HfLanguageModel:
        if self.rtl_positions == "flipped":
            return self
        turned = copy.copy(self)  # shares all modules
        turned.counts_down = True
        return turned

    def first_blocks(self, count: int) -> HfLanguageModel:
        blocks = self.blocks
        if count > len(blocks):
            raise BadInput(f"{count} blocks are more than the {len(blocks)} of the model")
        left_out = list(blocks)[count:]
        del blocks[count:]  # so that they are not copied
        try:
            copied = copy.deepcopy(self)
        finally:
            blocks.extend(left_out)
        _keep_blocks(copied.lm, tuple(range(count)))
        return copied

    def hidden(self, tokens: Tensor, sees: Visibility) -> Tensor:
        options = self._positions(tokens, tokens.shape[1], 0) | {"use_cache": False}
        if (mask := self._mask(tokens, sees)) is not None:
            options["attention_mask"] = mask
        states: Tensor = self.inner(input_ids=tokens, **options).last_hidden_state
        return exact(states)

    @property
    def _cache_name(self) -> str:
        """The argument that takes the keys and values: `cache` since transformers 5.24, and `past_key_values` before."""
        return "cache" if "cache" in inspect.signature(self.inner.forward).parameters else "past_key_values"

    def begin(self, rows: int, slots: int) -> HfState:
        return HfState(slots, 0, _transformers().DynamicCache(config=self.lm.config))

    def extend(self, tokens: Tensor, state: Any) -> tuple[Tensor, ModelState]:
        end = state.read + len(state.next_positions(tokens))
        options = self._positions(tokens, state.slots, state.read) | {self._cache_name: state.cache, "use_cache": True}
        states = self.inner(input_ids=tokens, **options).last_hidden_state
        return exact(states), HfState(state.slots, end, state.cache)

    def linear_head(self) -> LinearHead:
        head = self.lm.get_output_embeddings()
        return LinearHead(head.weight, getattr(head, "bias", None))

    def cost(self, slots: int, sees: Visibility) -> Cost:
        """The FLOPs of the linear maps of the blocks and of the scores; the backward pass by what is trained."""
        config, blocks = self.lm.config, self.blocks
        maps = [one for one in blocks.parameters() if one.ndim == 2]
        products = 2.0 * sum(one.numel() for one in maps)
        frozen = 2.0 * sum(one.numel() for one in maps if not one.requires_grad)
        heads = config.num_attention_heads
        head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
        scores = 4.0 * heads * head_width * len(blocks)
        head, is_tied = 2.0 * self.linear_head().weight.numel(), self.lm.config.tie_word_embeddings
        executed = products + scores * slots
        if self.train_mode == "head" and not is_tied:
            frozen = 2.0 * executed  # nothing below the head is trained
        elif self.train_mode.startswith("last:"):
            frozen = 2.0 * executed * (1 - min(len(blocks), int(self.train_mode[5:])) / len(blocks))
        keys = getattr(config, "num_key_value_heads", None) or heads
        return Cost(
            parameters=self.parameter_counts(),
            executed_flops_per_slot=executed,
            useful_flops_per_slot=products + scores * visible_pairs(sees, slots) / slots,
            head_flops_per_slot=head,
            state_elements=2 * keys * head_width * slots * len(blocks),
            frozen_flops_per_slot=frozen,
            frozen_head_flops_per_slot=0.0 if self.linear_head().weight.requires_grad else head,
        )

    def _positions(self, tokens: Tensor, slots: int, before: int) -> dict[str, Any]:
        """The options of a call that give (B, T) tokens after `before` others their positions in a row of `slots` slots.

        The (B, before + T) mask of ones says that a row is one text: transformers takes positions that do not rise by 1 for the
        starts of texts that share a row.
        """
        if not self.counts_down:
            return {}
        rows, last = tokens.shape[0], slots - 1 - before
        positions = torch.arange(last, last - tokens.shape[1], -1, device=tokens.device)
        whole = tokens.new_ones(rows, before + tokens.shape[1])
        return {"position_ids": positions.repeat(rows, 1), "attention_mask": whole}

    def _mask(self, tokens: Tensor, sees: Visibility) -> Tensor | None:
        """The (1, 1, T, T) additive mask for transformers; None for a causal reading, which is its own."""
        mask = mask_of(sees, tokens)
        if sees.native == "causal":
            return None
        slots = tokens.shape[1]
        additive = torch.zeros(1, 1, slots, slots, dtype=self.lm.dtype, device=tokens.device)
        return additive if mask is None else additive.masked_fill(~mask, torch.finfo(self.lm.dtype).min)


def _blocks(lm: Any) -> nn.ModuleList:
    found = (getattr(lm.base_model, name, None) for name in BLOCKS)
    blocks = next((one for one in found if isinstance(one, nn.ModuleList)), None)
    if blocks is None:
        raise BadInput(f"{type(lm).__name__} has no list of blocks", field=SOURCE)
    return blocks


def _prepare(lm: Any, vocab_size: int) -> None:
    """Give a model of transformers what all models of Palinode have: special tokens, roles, and no dropout of its own."""
    _with_special_rows(lm, vocab_size)
    for module in lm.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # its random numbers would not be those of the run
    tables: list[Any] = [one for one in lm.base_model.modules() if isinstance(one, nn.Embedding)]
    for table in tables:
        if table is not lm.get_input_embeddings():
            table.role = "position"
    lm.get_output_embeddings().role = "head"  # or Muon would take it


def _refuse_without_rotary(lm: Any) -> None:
    """Refuse a model that takes no positions, or has a table of them: a text that grows at its left end has no place in a table."""
    takes_them = "position_ids" in inspect.signature(lm.base_model.forward).parameters
    if not takes_them or any(getattr(one, "role", None) == "position" for one in lm.base_model.modules()):
        raise BadInput(f"text needs rotary positions, which {type(lm).__name__} has not", field="rtl_positions")


def _refuse_longer(lm: Any, slots: int) -> None:
    longest = getattr(lm.config, "max_position_embeddings", None) or slots
    if slots > longest:
        raise BadInput(f"{slots} slots are more than the {longest} positions of the model", field="data.window_tokens")


def _keep_blocks(lm: Any, kept: tuple[int, ...] | None) -> None:
    blocks = _blocks(lm)
    if kept is None:
        return
    if kept[-1] >= len(blocks):
        raise BadInput(f"block {kept[-1]} is not there: the model has {len(blocks)}", field="keep_layers")
    left = [blocks[index] for index in kept]
    del blocks[:]
    blocks.extend(left)
    for name in ("num_hidden_layers", "n_layer"):
        if hasattr(lm.config, name):
            setattr(lm.config, name, len(left))
    for index, block in enumerate(left):  # the place of a block in the cache
        parts: list[Any] = [part for part in block.modules() if hasattr(part, "layer_idx")]
        for part in parts:
            part.layer_idx = index


def _with_special_rows(lm: Any, vocab_size: int) -> None:
    """Give the tables of tokens exactly V rows: those of the tokenizer, and one for each special token."""
    ordinary = vocab_size - len(SPECIAL_NAMES)
    rows, bos = lm.get_input_embeddings().weight.shape[0], lm.config.bos_token_id
    if ordinary > rows:
        raise BadInput(f"{ordinary} ids, the model has {rows}", field="data.tokenizer")
    is_tied = lm.get_output_embeddings().weight is lm.get_input_embeddings().weight
    tables = [lm.get_input_embeddings(), *([] if is_tied else [lm.get_output_embeddings()])]
    for table in tables:
        table.weight = nn.Parameter(_more_rows(table.weight.detach(), ordinary, bos))
        if getattr(table, "bias", None) is not None:
            table.bias = nn.Parameter(_more_rows(table.bias.detach(), ordinary, bos))
    if is_tied:
        lm.get_output_embeddings().weight = lm.get_input_embeddings().weight
    lm.get_input_embeddings().num_embeddings = vocab_size
    lm.get_input_embeddings().padding_idx = None
    lm.get_output_embeddings().out_features = vocab_size
    lm.config.vocab_size = vocab_size


def _more_rows(table: Tensor, ordinary: int, bos: int | None) -> Tensor:
    kept = table[:ordinary]
    mean = kept.mean(dim=0, keepdim=True)
    first = kept[bos : bos + 1] if isinstance(bos, int) and 0 <= bos < ordinary else mean
    return torch.cat([kept, first, *[mean] * (len(SPECIAL_NAMES) - 1)])


def _set_trainable(lm: Any, config: HfModel, rng: torch.Generator) -> None:
    if config.train == "all":
        return
    lm.requires_grad_(False)
    blocks = _blocks(lm)
    if config.train == "lora":
        for block in blocks:
            _add_lora(block, config, rng)
    elif config.train == "head":
        lm.get_output_embeddings().requires_grad_(True)
    else:
        for block in blocks[-int(config.train.removeprefix("last:")) :]:
            block.requires_grad_(True)
        for name, module in lm.base_model.named_children():
            if "norm" in name or name == "ln_f":
                module.requires_grad_(True)


def _add_lora(block: nn.Module, config: HfModel, rng: torch.Generator) -> None:
    """Put a low-rank map beside every linear map of a block (also those of GPT-2, which are `Conv1D` with a transposed weight)."""
    for module in list(block.modules()):
        if isinstance(module, nn.Linear) or _is_transposed(module):
            weight = module.get_parameter("weight")
            out_width, in_width = weight.shape[::-1] if _is_transposed(module) else weight.shape
            module.add_module("adapter", Lora(in_width, out_width, config.lora_rank, config.lora_alpha, rng))
            module.register_forward_hook(_plus_adapter)


def _is_transposed(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D"


def merged(model: HfLanguageModel) -> dict[str, Tensor]:
    """The weights of the module of transformers by their own names, with each low-rank map added to the map beside it."""
    weights = {name: value for name, value in model.lm.state_dict().items() if ".adapter." not in name}
    for name, module in model.lm.named_modules():
        if isinstance(module, Lora):
            owner = model.lm.get_submodule(name.removesuffix(".adapter"))
            low_rank = module.scale * module.b.detach() @ module.a.detach()
            key = f"{name.removesuffix('.adapter')}.weight"
            weights[key] = weights[key] + (low_rank.T if _is_transposed(owner) else low_rank)
    return weights
