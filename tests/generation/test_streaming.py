import pytest
import torch

from blockformer.generation import generate, greedy, sampler, stream

PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5, 3], [7, 7]]
SOURCES = [[2, 7, 1, 8], [6], [2, 8], [1, 8, 2, 8, 4, 5]]


def argmax_loop(model, prompt, steps, eos=None, source=None):
    """The plainest greedy decoding there is: one text, no cache, no padding."""
    text = list(prompt)
    for _ in range(steps):
        tokens = torch.tensor([text])
        logits = model(tokens) if source is None else model(torch.tensor([source]), tokens)
        token = int(logits[0, -1].argmax())
        if token == eos:
            break
        text.append(token)
    return text[len(prompt) :]


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("name", ["learned", "rotary"])
def test_a_batch_of_different_lengths_gets_what_each_gets_alone(make, name, use_cache) -> None:
    model = make(name)
    expected = [argmax_loop(model, prompt, 12) for prompt in PROMPTS]
    assert generate(model, PROMPTS, max_new_tokens=12, use_cache=use_cache) == expected
    assert len({tuple(text) for text in expected}) == len(PROMPTS)


@pytest.mark.parametrize("use_cache", [True, False])
def test_translations_in_a_batch_are_those_of_each_source_alone(make, use_cache) -> None:
    model = make("translator")
    expected = [argmax_loop(model, [1], 10, source=source) for source in SOURCES]
    found = generate(model, [[1]] * 4, sources=SOURCES, max_new_tokens=10, use_cache=use_cache)
    assert found == expected
    assert len({tuple(text) for text in expected}) > 1


@pytest.mark.parametrize("name", ["learned", "translator"])
def test_each_row_ends_at_its_own_eos(make, name) -> None:
    model = make(name, vocab_size=5)
    sources = SOURCES_SMALL if name == "translator" else None
    prompts = [[1], [2], [3], [4], [1, 2], [4, 4, 3]]
    free = generate(model, prompts, sources=sources, max_new_tokens=15)
    eos = next(token for token in range(5) if len({text.index(token) if token in text else None for text in free}) > 2)
    expected = [text[: text.index(eos)] if eos in text else text for text in free]
    for use_cache in (True, False):
        found = generate(model, prompts, sources=sources, max_new_tokens=15, eos=eos, use_cache=use_cache)
        assert found == expected


SOURCES_SMALL = [[1, 2], [3], [4, 1, 1], [2], [2, 2], [3, 1, 4]]


def test_a_stream_gives_one_token_a_row_a_step_and_none_after_its_end(make) -> None:
    model = make("learned")
    whole = generate(model, PROMPTS, max_new_tokens=8)
    eos = whole[0][3]
    steps = list(stream(model, PROMPTS, max_new_tokens=8, eos=eos))
    for row, text in enumerate(whole):
        end = text.index(eos) if eos in text else 8
        assert [step[row] for step in steps] == text[:end] + [None] * (len(steps) - end)


def test_a_stream_gives_the_first_token_before_it_computes_the_second(make) -> None:
    model = make("rotary")
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    steps = stream(model, [[1, 2]], max_new_tokens=5)
    next(steps)
    assert len(calls) == 1


def test_with_a_cache_the_model_sees_each_token_once(make) -> None:
    model = make("rotary")
    widths = []
    model.register_forward_pre_hook(lambda _, args: widths.append(tuple(args[0].shape)))
    generate(model, [[1, 2, 3]], max_new_tokens=4)
    assert widths == [(1, 3), (1, 1), (1, 1), (1, 1)]


@pytest.mark.parametrize("name", ["learned", "rotary"])
def test_a_row_stops_when_the_model_has_read_max_length_tokens_of_it(make, name) -> None:
    model = make(name, max_length=8)
    found = generate(model, PROMPTS, max_new_tokens=100)
    assert [len(text) for text in found] == [8 - len(prompt) + 1 for prompt in PROMPTS]
    assert found == [generate(model, [prompt], max_new_tokens=100)[0] for prompt in PROMPTS]


def test_sampling_with_the_same_seed_writes_the_same_text(make) -> None:
    model = make("learned")

    def text(seed, use_cache=True):
        choose = sampler(temperature=1.5, top_k=8, top_p=0.95, generator=torch.Generator().manual_seed(seed))
        return generate(model, PROMPTS, max_new_tokens=10, choose=choose, use_cache=use_cache)

    assert text(1) == text(1) == text(1, use_cache=False)
    assert text(1) != text(2)


def test_the_choice_is_made_on_the_logits_of_the_last_token(make) -> None:
    model = make("learned")
    seen = []

    def choose(logits):
        seen.append(logits)
        return greedy(logits)

    (text,) = generate(model, [[1, 2]], max_new_tokens=3, choose=choose)
    full = model(torch.tensor([[1, 2, *text[:-1]]]))[:, -3:]
    torch.testing.assert_close(torch.stack(seen, dim=1), full)


def test_what_cannot_work_is_refused_with_the_reason(make) -> None:
    model = make("learned", max_length=4)
    for prompts, sources, reason in (
        ([], None, "needs at least one token"),
        ([[1], []], None, "needs at least one token"),
        ([[1] * 5], None, "5 tokens, but the model's max_length is 4"),
        ([[1]], [[1]], "takes no sources"),
    ):
        with pytest.raises(ValueError, match=reason):
            generate(model, prompts, sources=sources, max_new_tokens=1)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        generate(model, [[1]], max_new_tokens=0)
    with pytest.raises(ValueError, match="training mode"):
        generate(model.train(), [[1]], max_new_tokens=1)
    with pytest.raises(ValueError, match="encoder_only cannot generate"):
        generate(make("reader"), [[1]], max_new_tokens=1)
    translator = make("translator", max_length=4)
    for sources, reason in (
        (None, "needs sources"),
        ([[1], [2]], "2 sources, but 1 prompts"),
        ([[1] * 5], "a source has 5"),
    ):
        with pytest.raises(ValueError, match=reason):
            generate(translator, [[1]], sources=sources, max_new_tokens=1)
