"""Chat templates of strangers end in one line, in bounded time and memory, and touch nothing."""

import time
from pathlib import Path

import pytest

from blockformer.data.chat_renderer import ChatRenderer, check_template
from blockformer.data.chat_template import ChatTemplate
from blockformer.data.corpora.corpus import Chat
from blockformer.errors import DataError
from tests.data.chats import CHATML

CHAT = Chat([{"role": "user", "content": "hi"}], "chats.jsonl:7")
FOREVER = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
HARMFUL = {
    "{{ ''.__class__.__mro__ }}": "access to attribute '__class__' of 'str' object is unsafe",
    "{{ ''.__class__.__base__.__subclasses__() }}": "access to attribute '__class__'",
    "{{ cycler.__init__.__globals__.os.system('touch owned') }}": "access to attribute '__init__'",
    "{{ '{0.__class__.__mro__}'.format(1) }}": "access to attribute '__class__'",
    "{{ messages.append(1) }}": "access to attribute 'append' of 'list' object is unsafe",
    "{% include '/etc/passwd' %}": "no loader for this environment",
    "{{ namespace(__class__=1) }}": "must not begin with an underscore",
    "{% for i in range(10**9) %}x{% endfor %}": "Range too big",
    "{{ 'a' * 10**10 }}": "it needs more than 1024 MiB",
    "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}": "makes more than 16,777,216 characters",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "recursion",
    "{{ '%c' | format(55296) }}": "renders it to a text with an unpaired surrogate",
    "{{ raise_exception('no\nsystem\x1b[2J') }}": "cannot render the conversation: no system\\x1b[2J",
}


def refusal(template: str, seconds: float = 10.0) -> str:
    with (
        pytest.raises(DataError) as found,
        ChatRenderer(ChatTemplate(template, {}, "own.jinja"), seconds) as renderer,
    ):
        list(renderer.render([CHAT]))
    return str(found.value)


@pytest.mark.slow
@pytest.mark.parametrize("template", HARMFUL)
def test_what_is_not_allowed_is_refused_with_the_place(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refusal(template)
    assert said.startswith("chats.jsonl:7: own.jinja ")
    assert HARMFUL[template] in said
    assert said.isprintable()
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_template_without_an_end_is_stopped() -> None:
    begun = time.monotonic()
    assert refusal(FOREVER, seconds=0.5) == "chats.jsonl:7: own.jinja took more than 0.5 seconds, or crashed"
    assert refusal("{{ 10 ** (10 ** 10) }}", seconds=0.5).startswith("own.jinja took more than 0.5 seconds")
    assert time.monotonic() - begun < 60


def test_only_the_conversation_that_takes_too_long_is_blamed() -> None:
    slow = f"{{{{ messages[0].content }}}}{{% if messages[0].content == 'slow' %}}{FOREVER}{{% endif %}}"
    chats = [Chat([{"role": "user", "content": said}], f"f:{n}") for n, said in enumerate(["a", "b", "slow", "c"], 1)]
    found: list[str] = []
    with (
        pytest.raises(DataError, match=r"^f:3: .* took more than 0\.5 seconds"),
        ChatRenderer(ChatTemplate(slow, {}), 0.5) as renderer,
    ):
        found.extend(one.text for one in renderer.render(chats))
    assert found == ["a", "b"]


def test_a_template_that_marks_nothing_or_is_none_is_refused_with_the_remedy() -> None:
    with pytest.raises(DataError) as found:
        check_template(ChatTemplate("{{ messages[0].content }}", {}, "own.jinja"))
    assert str(found.value) == (
        "own.jinja marks no answers, which alone are scored: put {% generation %} and {% endgeneration %} around the "
        "assistant's text in a copy of it, and name the copy by --data.chat_template"
    )
    with pytest.raises(DataError, match=r"^own\.jinja is not a valid Jinja template: line 2: Expected an expression"):
        check_template(ChatTemplate("a\n{% for %}", {}, "own.jinja"))
    check_template(ChatTemplate(CHATML, {}))


TURN = "{% for m in messages %}TURN{% endfor %}"
MOVED = {
    "a macro that writes something before": "{% macro turn(m) %}A: ANSWER{% endmacro %}{{ turn(m) }}",
    "a filter": "{% filter upper %}ANSWER{% endfilter %}",
    "a text that is kept": "{% set said %}ANSWER{% endset %}> {{ said }}",
}
KEPT = {
    "a macro of nothing else": "{% macro turn(m) %}ANSWER!{% endmacro %}> {{ turn(m) }}",
    "one in another": "> {% generation %}hiANSWER{% endgeneration %}",
}


def of_kind(kind: str) -> ChatTemplate:
    answer = "{% generation %}{{ m.content }}{% endgeneration %}"
    return ChatTemplate(TURN.replace("TURN", kind.replace("ANSWER", answer)), {}, "own.jinja")


@pytest.mark.parametrize("kind", MOVED)
def test_answers_that_are_elsewhere_than_their_tags_are_refused(kind: str) -> None:
    with (
        pytest.raises(
            DataError, match=r"chats\.jsonl:7: own\.jinja cannot render .* moved or changed; use the tags where"
        ),
        ChatRenderer(of_kind(MOVED[kind]), 10.0) as renderer,
    ):
        list(renderer.render([CHAT]))


@pytest.mark.parametrize("kind", KEPT)
def test_tags_in_macros_and_in_each_other_mark_what_they_enclose(kind: str) -> None:
    with ChatRenderer(of_kind(KEPT[kind]), 10.0) as renderer:
        (found,) = renderer.render([CHAT])
    assert [found.text[start:stop] for start, stop in found.spans] == ["hi" if "macro" in kind else "hihi"]
