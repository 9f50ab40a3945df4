import pytest
import torch

from blockformer.huggingface.tensor_layout import Rearrangement


@pytest.mark.parametrize(
    ("text", "sizes", "stored", "shape"),
    [
        ("(expert f) d -> expert d f", {}, (12, 5), (3, 5, 4)),
        ("(h two k) d -> (h k two) d", {"h": 2, "two": 2}, (12, 5), (12, 5)),
        ("d h k -> (h k) d", {}, (5, 3, 4), (12, 5)),
        ("1 v -> v", {}, (1, 7), (7,)),
        ("a b -> a b", {}, (2, 3), (2, 3)),
    ],
)
def test_undo_is_the_inverse_of_apply(
    text: str, sizes: dict[str, int], stored: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    known = sizes | ({"h": 3} if text.startswith("d h k") else {})
    rearrangement, tensor = Rearrangement(text, known), torch.randn(stored)
    result = rearrangement.apply(tensor, shape)
    assert result.shape == shape
    assert torch.equal(rearrangement.undo(result), tensor)


def test_experts_that_are_stored_below_one_another_are_transposed_one_by_one() -> None:
    experts = torch.randn(3, 4, 5)
    stored = experts.flatten(0, 1)
    result = Rearrangement("(expert f) d -> expert d f", {}).apply(stored, (3, 5, 4))
    assert torch.equal(result, experts.transpose(1, 2))


@pytest.mark.parametrize(
    ("text", "sizes", "message"),
    [
        ("a b -> a c", {}, "must name the same axes on both sides"),
        ("a a -> a", {}, "must name the same axes on both sides"),
        ("a b", {}, "is not of the form"),
        ("(a b -> a b", {}, "is not of the form"),
        ("a b -> b a", {"c": 3}, "sizes has 'c'"),
    ],
)
def test_a_wrong_notation_is_an_error(text: str, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        Rearrangement(text, sizes)


def test_shapes_that_do_not_fit_are_errors() -> None:
    rearrangement = Rearrangement("(expert f) d -> expert d f", {"expert": 5})
    with pytest.raises(ValueError, match="has size 12"):
        rearrangement.apply(torch.zeros(12, 5), (5, 5, 2))
    with pytest.raises(ValueError, match="needs 2 axes"):
        rearrangement.apply(torch.zeros(12), (5, 5, 2))
    with pytest.raises(ValueError, match="leaves the size of 'h' open"):
        Rearrangement("(h two k) -> (h k two)", {"two": 2}).undo(torch.zeros(12))
