import itertools

import pytest
import torch

from blockformer.generation import beam_search, generate, length_penalty

EOS, SIZE, STEPS = 2, 4, 3
SOURCES = [[3, 1], [1], [3, 3, 0]]


def exhaustive(model, prompt, source, alpha):
    """Every text of at most STEPS tokens that ends, with its score, best first."""
    scored = []
    for length in range(1, STEPS + 1):
        for body in itertools.product([token for token in range(SIZE) if token != EOS], repeat=length - 1):
            text = torch.tensor([[*prompt, *body, EOS]])
            logits = model(text[:, :-1]) if source is None else model(torch.tensor([source]), text[:, :-1])
            steps = logits[0, -length:].log_softmax(-1).gather(-1, text[0, -length:, None])
            scored.append((steps.sum().item() / ((5 + length) / 6) ** alpha, body))
    return sorted(scored, reverse=True)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("name", ["learned", "translator"])
def test_a_beam_wide_enough_for_every_text_finds_the_best(make, name, alpha) -> None:
    prompts = [[1], [0, 3], [3]] if name == "learned" else [[1], [1], [1]]
    sources = SOURCES if name == "translator" else None
    for seed in range(4):
        model = make(name, vocab_size=SIZE, seed=seed)
        found = beam_search(
            model, prompts, sources=sources, max_new_tokens=STEPS, eos=EOS, beams=SIZE**STEPS, alpha=alpha
        )
        for row, (hypotheses, prompt) in enumerate(zip(found, prompts, strict=True)):
            score, body = exhaustive(model, prompt, None if sources is None else sources[row], alpha)[0]
            assert hypotheses[0].tokens == body
            assert hypotheses[0].score == pytest.approx(score, rel=1e-5)
            assert hypotheses[0].ended


def test_length_penalty_decides_between_short_and_long(make) -> None:
    differing = 0
    for seed in range(20):
        model = make("learned", vocab_size=SIZE, seed=seed)
        options = {"max_new_tokens": STEPS, "eos": EOS, "beams": SIZE**STEPS}
        short, long = (beam_search(model, [[1]], alpha=alpha, **options)[0][0] for alpha in (0.0, 4.0))
        assert len(short.tokens) <= len(long.tokens)
        differing += short != long
    assert differing


@pytest.mark.parametrize("eos", [None, EOS])
@pytest.mark.parametrize("name", ["rotary", "translator"])
def test_one_beam_is_greedy_decoding(make, name, eos) -> None:
    prompts = [[1], [1], [1]] if name == "translator" else [[1, 3], [5], [8, 2, 2, 4]]
    sources = SOURCES if name == "translator" else None
    model = make(name)
    found = beam_search(model, prompts, sources=sources, max_new_tokens=9, eos=eos, beams=1)
    expected = generate(model, prompts, sources=sources, max_new_tokens=9, eos=eos)
    assert [list(hypotheses[0].tokens) for hypotheses in found] == expected
    assert [hypotheses[0].ended for hypotheses in found] == [len(text) < 9 for text in expected]


@pytest.mark.parametrize("name", ["rotary", "translator"])
def test_a_batch_finds_what_each_finds_alone_with_or_without_a_cache(make, name) -> None:
    prompts = [[1], [1], [1]] if name == "translator" else [[1, 3], [5], [8, 2, 2, 4]]
    sources = SOURCES if name == "translator" else None
    for seed in range(3):
        model = make(name, vocab_size=9, seed=seed)
        options = {"max_new_tokens": 8, "eos": EOS, "beams": 3}
        together = beam_search(model, prompts, sources=sources, **options)
        plain = beam_search(model, prompts, sources=sources, use_cache=False, **options)
        alone = [
            beam_search(model, prompts[row : row + 1], sources=sources and sources[row : row + 1], **options)[0]
            for row in range(3)
        ]
        texts = [[[hypothesis.tokens for hypothesis in row] for row in found] for found in (together, plain, alone)]
        assert texts[0] == texts[1] == texts[2]


def test_more_beams_never_find_less_when_nothing_ends(make) -> None:
    improved = 0
    for seed in range(5):
        model = make("learned", seed=seed)
        scores = [beam_search(model, [[1]], max_new_tokens=6, beams=beams)[0][0].score for beams in (1, 400)]
        assert scores[1] >= scores[0] - 1e-6
        improved += scores[1] > scores[0] + 1e-6
    assert improved


def test_hypotheses_come_best_first_and_tell_their_probability(make) -> None:
    model = make("learned", vocab_size=6)
    (hypotheses,) = beam_search(model, [[1, 4]], max_new_tokens=5, eos=EOS, beams=4)
    assert len({hypothesis.tokens for hypothesis in hypotheses}) == len(hypotheses) > 1
    assert hypotheses == sorted(hypotheses, key=lambda found: (found.ended, found.score), reverse=True)
    for hypothesis in hypotheses:
        body = [*hypothesis.tokens, EOS] if hypothesis.ended else list(hypothesis.tokens)
        logits = model(torch.tensor([[1, 4, *body[:-1]]]))[0, 1:].log_softmax(-1)
        expected = logits.gather(-1, torch.tensor(body)[:, None]).sum().item()
        assert hypothesis.log_probability == pytest.approx(expected, rel=1e-5)
        assert hypothesis.score == pytest.approx(expected / length_penalty(len(body), 0.6), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_as_many_of_the_best_are_found_as_are_wanted(make, alpha) -> None:
    for seed in range(4):
        model = make("learned", vocab_size=SIZE, seed=seed)
        options = {"max_new_tokens": STEPS, "eos": EOS, "beams": SIZE**STEPS, "alpha": alpha}
        (found,) = beam_search(model, [[1]], best=5, **options)
        expected = [body for _, body in exhaustive(model, [1], None, alpha)]
        assert [hypothesis.tokens for hypothesis in found[:5]] == expected[:5]


def test_the_search_ends_with_the_models_max_length(make) -> None:
    model = make("learned", max_length=6)
    found = beam_search(model, [[1], [2, 3, 4, 5]], max_new_tokens=100, beams=2)
    assert [[len(hypothesis.tokens) for hypothesis in row] for row in found] == [[6, 6], [3, 3]]


def test_a_width_or_penalty_out_of_range_is_refused(make) -> None:
    for wrong in ({"best": 5}, {"best": 0}, {"beams": 0}, {"alpha": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            beam_search(make("learned"), [[1]], max_new_tokens=1, **wrong)


def test_beams_are_bounded_before_the_search(make) -> None:
    with pytest.raises(ValueError, match="beams=1000000 must be from 1 to 4096"):
        beam_search(make("learned"), [[1]], max_new_tokens=2, beams=10**6)
