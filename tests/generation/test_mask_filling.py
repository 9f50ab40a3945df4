import pytest
import torch

from blockformer.generation import fill_masks

MASK = 3


def most_certain_first(model, tokens):
    """The same, the plainest way: all blanks scored anew before each is filled."""
    text = list(tokens)
    while MASK in text:
        logits = model(torch.tensor([text]))[0]
        logits[:, MASK] = -torch.inf
        best = {place: logits[place].softmax(-1).max(-1) for place, token in enumerate(text) if token == MASK}
        place = max(best, key=lambda candidate: best[candidate].values.item())
        text[place] = int(best[place].indices)
    return text


def test_blanks_are_filled_surest_first_and_the_rest_is_left_alone(make) -> None:
    tokens = [5, MASK, 1, MASK, MASK, 9]
    changed_by_order = 0
    for seed in range(8):
        model = make("reader", seed=seed)
        text, blanks = fill_masks(model, tokens, MASK)
        assert text == most_certain_first(model, tokens)
        assert [blank.position for blank in blanks] == [1, 3, 4]
        assert [text[blank.position] for blank in blanks] == [blank.token for blank in blanks]
        assert [token for token, before in zip(text, tokens, strict=True) if before != MASK] == [5, 1, 9]
        logits = model(torch.tensor([tokens]))[0]
        logits[:, MASK] = -torch.inf
        at_once = logits.argmax(-1).tolist()
        changed_by_order += any(text[blank.position] != at_once[blank.position] for blank in blanks)
    assert changed_by_order


def test_candidates_are_the_most_probable_with_their_probabilities(make) -> None:
    model = make("reader")
    _, (blank,) = fill_masks(model, [5, MASK, 1], MASK, top=4)
    logits = model(torch.tensor([[5, MASK, 1]]))[0, 1]
    logits[MASK] = -torch.inf
    values, places = logits.softmax(-1).topk(4)
    assert [token for token, _ in blank.candidates] == places.tolist()
    assert [probability for _, probability in blank.candidates] == pytest.approx(values.tolist(), rel=1e-5)
    assert blank.token == blank.candidates[0][0]


def test_what_cannot_be_filled_is_refused_with_the_reason(make) -> None:
    model = make("reader", max_length=4)
    with pytest.raises(ValueError, match="no mask token"):
        fill_masks(model, [1, 2], MASK)
    with pytest.raises(ValueError, match="5 tokens, but the model's max_length is 4"):
        fill_masks(model, [MASK] * 5, MASK)
    with pytest.raises(ValueError, match="training mode"):
        fill_masks(model.train(), [MASK], MASK)
    with pytest.raises(ValueError, match="decoder_only cannot predict masked"):
        fill_masks(make("learned"), [MASK], MASK)
