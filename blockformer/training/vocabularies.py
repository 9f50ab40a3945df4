"""Which token of one tokenizer is which of another's."""

from blockformer.data.tokenizer import Tokenizer


def old_ids(new: Tokenizer, old: Tokenizer) -> list[int]:
    """For each token id of ``new`` that of the token in ``old`` that stands for the same bytes; -1: there is none.

    Special tokens are those of the same id.
    """
    special = sum(not piece for piece in new.pieces)
    known = {piece: token for token, piece in enumerate(old.pieces) if piece}
    return [*range(special), *(known.get(piece, -1) for piece in new.pieces[special:])]
