"""The chat template of a tokenizer: how the messages of a conversation become one text."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blockformer.errors import DataError
from registry.files import read_bytes

TEMPLATE = "chat_template.jinja"
MAX_BYTES = 1_000_000
"""Of a template."""


@dataclass(frozen=True)
class ChatTemplate:
    """A template in the language of Jinja, as tokenizers of Hugging Face have them.

    Args:
        text: The template.
        tokens: The special tokens that it can name, by their keys in a tokenizer_config.json, such as `eos_token`.
        origin: Where it is from, for messages.
    """

    text: str
    tokens: Mapping[str, str]
    origin: str = field(default="the tokenizer's chat template", compare=False)

    def dump(self) -> dict[str, Any]:
        """JSON values from which :meth:`rebuild` makes it."""
        return {"template": self.text, "tokens": dict(self.tokens)}

    @classmethod
    def rebuild(cls, dumped: Any) -> "ChatTemplate":
        """The template of values that :meth:`dump` has given, and that may come from a stranger.

        Raises:
            DataError: they are no template.
        """
        text, tokens = (dumped.get("template"), dumped.get("tokens")) if isinstance(dumped, dict) else (None, None)
        if not isinstance(text, str) or len(text) > MAX_BYTES or not isinstance(tokens, dict):
            raise DataError("the stored chat template must have a text, and special tokens by name")
        if not all(isinstance(one, str) for pair in tokens.items() for one in pair):
            raise DataError("the special tokens of the stored chat template must be texts")
        return cls(text, tokens)


def read_template(path: Path) -> str:
    """The text of a file with a template.

    Raises:
        DataError: it cannot be read, is too large or is not UTF-8.
    """
    try:
        return read_bytes(path, MAX_BYTES).decode("utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not a text in UTF-8") from None
