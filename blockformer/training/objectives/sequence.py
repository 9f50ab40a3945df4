"""Predict one sequence from another."""

from torch import Tensor, nn

from blockformer.training.objectives.objective import Batch, Objective, count


class SequenceToSequence(Objective):
    """Prediction of the target's next token from the source and what came before (Vaswani et al. 2017)."""

    name = "seq2seq"
    kind = "encoder_decoder"

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        masks = {key: batch.get(key) for key in ("source_mask", "target_mask")}
        return model(batch["source"], batch["target"], **masks)

    def tokens(self, batch: Batch) -> Tensor:
        return count(batch["source"], batch.get("source_mask")) + count(batch["target"], batch.get("target_mask"))
