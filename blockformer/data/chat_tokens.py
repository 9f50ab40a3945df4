"""Conversations as token ids, and which of them are the assistant's, as transformers has them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Encoding

from blockformer.data.chat_renderer import ChatRenderer
from blockformer.data.corpora.chats import ASSISTANT
from blockformer.data.corpora.corpus import Chat
from blockformer.data.tokenizer import Tokenizer, unusable

_PROBE = "7c1e9a"
"""What an answer says in order to be found in a text."""


class ChatTokens(NamedTuple):
    """A conversation in token ids.

    Attributes:
        ids: (n,) those of its whole text, special tokens included.
        answers: (n,) whether the template marks a token as the assistant's.
        others: bytes of the text that are written by special tokens, or dropped with them.
        text: what the template has made of it.
    """

    ids: NDArray[np.int64]
    answers: NDArray[np.bool_]
    others: int
    text: str


class ChatEncoder:
    """Renders conversations by the chat template of a tokenizer, and encodes each text once.

    Unlike in other texts, special tokens are found by their names wherever these are in the text, as the template
    writes them so; none is added. The process that renders ends with the `with` block.

    Args:
        tokenizer: A tokenizer with a chat template.

    Raises:
        DataError: It is no template.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.chat is not None
        self._ordinary, self._library = tokenizer.is_ordinary, tokenizer.library()
        added = {one.content for one in self._library.get_added_tokens_decoder().values()}
        for name in {*tokenizer.chat.tokens.values()} - added:  # an entry of the vocabulary that its settings name
            if self._library.token_to_id(name) is not None:
                self._library.add_special_tokens([AddedToken(name, special=True, normalized=False)])
        self._renderer = ChatRenderer(tokenizer.chat)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process that renders."""
        self._renderer.close()

    def encode(self, chats: Sequence[Chat], *, prompt: bool = False) -> Iterator[ChatTokens]:
        """The tokens of conversations.

        Args:
            chats: The conversations.
            prompt: End with what comes before the assistant's next message.

        Raises:
            DataError: One cannot be rendered or encoded; the message has its place.
        """
        rendered = [*self._renderer.render(chats, prompt=prompt)]
        try:
            codes: list[Any] = self._library.encode_batch([one.text for one in rendered], add_special_tokens=False)
        except BaseException as error:
            raise unusable(error, "cannot encode a conversation") from None
        for (text, spans), code in zip(rendered, codes, strict=True):
            ids = np.array(code.ids, np.int64)
            special = np.flatnonzero(~self._ordinary[ids])
            others = sum(len(text[slice(*code.offsets[place])].encode()) for place in special)
            yield ChatTokens(ids, marked(code, spans), others, text)

    def end_of_answer(self, chat: Chat) -> int | None:
        """The special token that comes first after an answer to a conversation; None: none does.

        Args:
            chat: A conversation to which the assistant is to answer.

        Raises:
            DataError: It cannot be rendered or encoded with an answer.
        """
        answer = {"role": ASSISTANT, "content": _PROBE}
        (rendered,) = self._renderer.render([replace(chat, messages=[*chat.messages, answer])])
        after = rendered.text[rendered.text.rfind(_PROBE) + len(_PROBE) :] if _PROBE in rendered.text else ""
        try:
            ids = self._library.encode(after, add_special_tokens=False).ids
        except BaseException as error:
            raise unusable(error, "cannot encode a conversation") from None
        return next((one for one in ids if not self._ordinary[one]), None)


def marked(code: Encoding, spans: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """(n,) whether each token is in one of the spans of characters of its text.

    As in transformers, a span is from the first token of its first character to the first token of its last one. Some
    characters belong to no token: a mark that NFC has joined to its letter, and the spaces that some tokenizers leave
    out of their offsets. Where one is the first or last of the span, the outermost token inside takes its place;
    transformers would leave out this answer and those after it, or mark all tokens to the end of the conversation.

    Args:
        code: a text, encoded.
        spans: the first character of each span, and the one after its last.
    """
    found = np.zeros(len(code.ids), np.bool_)
    for start, end in spans:
        if start == end:
            continue
        first, last = code.char_to_token(start), code.char_to_token(end - 1)
        if first is None or last is None:
            begins, ends = np.array(code.offsets).T
            inside = np.flatnonzero((begins < end) & (ends > start))
            if not len(inside):
                continue
            first, last = inside[0] if first is None else first, inside[-1] if last is None else last
        found[first : last + 1] = True
    return found
