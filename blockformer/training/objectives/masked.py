"""Fill in what was blanked out."""

from torch import Tensor, nn

from blockformer.training.objectives.objective import Batch, Objective, count


class MaskedLM(Objective):
    """Prediction of masked tokens from both sides (Devlin et al. 2019, arXiv:1810.04805); the data corrupts them."""

    name = "masked_lm"
    kind = "encoder_only"

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        optional = {key: batch[key] for key in ("segments", "attention_mask", "documents") if key in batch}
        return model(batch["tokens"], **optional)

    def tokens(self, batch: Batch) -> Tensor:
        return count(batch["tokens"], batch.get("attention_mask"))
