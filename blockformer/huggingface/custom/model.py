"""The classes of transformers around a model of blocks.

They are copied into exported folders, and use no more of this package than is copied with them.
"""

from abc import abstractmethod
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast, MaskedLMOutput, Seq2SeqLMOutput

from blocks.base import Cache
from blocks.models.base import Model


class BlockformerConfig(PretrainedConfig):
    """Sizes and tokens, for those who ask; the architecture itself is the code in `modeling_blockformer.py`."""

    model_type = "blockformer"


class ModelCache:
    """A cache of ours under the names by which `generate` asks for one."""

    is_compileable = False

    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens that it holds."""
        return self.cache.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        self.cache.reorder(beam_idx)


class BlockformerModel(PreTrainedModel):
    """A model of blocks with the weights that transformers loads into it.

    Args:
        config: what config.json says.
    """

    config_class = BlockformerConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _is_stateful = True  # a cache of linear attention cannot be cut back, as assisted decoding would

    def __init__(self, config: BlockformerConfig) -> None:
        super().__init__(config)
        self.model: Any = self.build()
        if next(self.model.parameters()).device.type != "meta":  # not about to be loaded
            self.model.initialise()
        self.post_init()

    @abstractmethod
    def build(self) -> Model:
        """The model of the recipe."""

    def get_input_embeddings(self) -> nn.Module:
        """The table of token vectors."""
        return self.model.embedding.tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another table in its place."""
        self.model.embedding.tokens = value

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: initial values depend on names, so the constructor draws them all at once."""


class BlockformerForMaskedLM(BlockformerModel):
    """An encoder that fills in tokens."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits (B, T, V) of ids (B, T), and the loss over labels that are not -100."""
        segments = token_type_ids if self.model.embedding.segments is not None else None
        logits = self.model(input_ids, segments=segments, attention_mask=self.model.mask(attention_mask))
        output = MaskedLMOutput(loss=_loss(logits, labels), logits=logits)
        return output if return_dict is not False else output.to_tuple()


class _Writes(BlockformerModel, GenerationMixin):
    """What both kinds of model that write share: the cache is ours, and made on the first step."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def _cache(self, past: ModelCache | None, use_cache: bool | None) -> ModelCache | None:
        begins = past is None and use_cache and self.model.allows("cache")
        return ModelCache(self.model.new_cache()) if begins else past


class BlockformerForCausalLM(_Writes):
    """A decoder that continues a text."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: ModelCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits (B, T, V) of ids (B, T) that follow those in the cache; the loss is that of each next label."""
        mask, past = self.model.mask(attention_mask), self._cache(past_key_values, use_cache)
        logits = self.model(
            input_ids,
            attention_mask=None if mask is None else mask[:, -input_ids.shape[1] :],
            positions=position_ids,
            cache=None if past is None else past.cache,
        )
        following = None if labels is None else F.pad(labels, (0, 1), value=-100)[:, 1:]
        output = CausalLMOutputWithPast(loss=_loss(logits, following), logits=logits, past_key_values=cast("Any", past))
        return output if return_dict is not False else output.to_tuple()

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Tensor,
        past_key_values: ModelCache | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """The tokens that are not in the cache yet."""
        past = self._cache(past_key_values, use_cache)
        held = 0 if past is None else past.cache.length
        return {"input_ids": input_ids[:, held:], "attention_mask": attention_mask, "past_key_values": past}


class _Reader(nn.Module):
    """The encoder's half of a model, as `generate` calls it; it owns no parameters."""

    main_input_name = "input_ids"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = (model,)  # hidden in a tuple, so that parameters are not counted twice

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **wishes: Any) -> Any:
        if wishes.get("output_attentions") or wishes.get("output_hidden_states"):
            raise ValueError("this model gives neither attentions nor hidden states")
        return BaseModelOutput(last_hidden_state=self._model[0].encode(input_ids, self._model[0].mask(attention_mask)))


class BlockformerForSeq2SeqLM(_Writes):
    """An encoder-decoder that writes about what it reads."""

    def get_encoder(self, *arguments: Any, **options: Any) -> nn.Module:
        """What reads."""
        return _Reader(self.model)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: ModelCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits (B, T, V) of the target; without one, labels are it, beginning with the start token."""
        if decoder_input_ids is None:
            decoder_input_ids = self._shifted(labels)
        if encoder_outputs is None and input_ids is None:
            raise ValueError("there is nothing to read: give input_ids or encoder_outputs")
        mask, past = self.model.mask(attention_mask), self._cache(past_key_values, use_cache)
        memory = encoder_outputs[0] if encoder_outputs is not None else self.model.encode(input_ids, mask)
        target = self.model.mask(decoder_attention_mask)
        logits = self.model.decode(
            decoder_input_ids,
            memory,
            mask,
            None if target is None else target[:, -decoder_input_ids.shape[1] :],
            None if past is None else past.cache,
        )
        output = Seq2SeqLMOutput(
            loss=_loss(logits, labels),
            logits=logits,
            past_key_values=cast("Any", past),
            encoder_last_hidden_state=memory,
        )
        return output if return_dict is not False else output.to_tuple()

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Tensor,
        past_key_values: ModelCache | None = None,
        attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """The target's tokens that are not in the cache yet, and what was read."""
        past = self._cache(past_key_values, use_cache)
        held = 0 if past is None else past.cache.length
        return {
            "decoder_input_ids": input_ids[:, held:],
            "attention_mask": attention_mask,
            "encoder_outputs": encoder_outputs,
            "past_key_values": past,
        }

    def _shifted(self, labels: Tensor | None) -> Tensor:
        start = getattr(self.config, "decoder_start_token_id", None)
        if labels is None or start is None:
            raise ValueError("give decoder_input_ids, or labels for a model whose config has a decoder_start_token_id")
        padding = getattr(self.config, "pad_token_id", None) or 0
        earlier = torch.full_like(labels[:, :1], start)
        return torch.cat([earlier, labels[:, :-1].masked_fill(labels[:, :-1] == -100, padding)], dim=1)


def _loss(logits: Tensor, labels: Tensor | None) -> Tensor | None:
    """The mean cross entropy over labels that are not -100, in float32."""
    if labels is None:
        return None
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten().to(logits.device), ignore_index=-100)
