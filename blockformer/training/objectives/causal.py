"""Predict the next token."""

from torch import Tensor, nn

from blockformer.training.objectives.objective import Batch, Objective, count


class CausalLM(Objective):
    """Next-token prediction over packed documents, none of which sees another (Radford et al. 2018)."""

    name = "causal_lm"
    kind = "decoder_only"

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch["tokens"], attention_mask=batch.get("attention_mask"), documents=batch.get("documents"))

    def tokens(self, batch: Batch) -> Tensor:
        return count(batch["tokens"], batch.get("attention_mask"))
