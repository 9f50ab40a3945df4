"""Conversations, chat templates and a tokenizer for them."""

import json
import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

Messages = list[dict[str, Any]]

TEXTS = [
    "The cat sat on the mat, and the dog didn't.\nIt's 1234 o'clock!",
    "Übung macht den Meister: äöü ß, naïve façade",
    "日本語のテキスト and 🙂 emoji <|user|> system assistant",
] * 8
SPECIAL = [
    "<pad>",
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
]
PIECES = [
    "Hello",
    " ",
    "  ",
    "\n",
    "\n\n",
    "🙂",
    "👩‍👩‍👧",
    "é",
    "e\u0301.",
    "日本語",
    "naïve",
    "don't",
    "1234",
    "<|im_end|>",
    "</s>",
    "{{ x }}",
]

CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else %}
{{- message['content'] + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
LLAMA3 = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
        {{- message['content'] | trim + '<|eot_id|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
SYSTEM = """\
{% if messages[0]['role'] == 'system' %}
{% set instructions = '[' + messages[0]['content'] + '] ' %}{% set rest = messages[1:] %}
{% else %}{% set instructions = '' %}{% set rest = messages %}{% endif %}
{% for message in rest %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate: user, assistant, user, ...') }}
{% endif %}
{% if message['role'] == 'user' %}
{{ bos_token + 'Q: ' + (instructions if loop.first else '') + message['content'] + '\\nA: ' }}
{% else %}
{% generation %}{{ message['content'] }}{% endgeneration %}{{ eos_token }}
{% endif %}
{% endfor %}"""
PLAIN = """\
{% set ns = namespace(first=true) %}{% for m in messages %}{% if not ns.first %} {% endif %}{% set ns.first = false %}
{% if m.role == 'assistant' %}{% generation %}{{ m.content }}
{% endgeneration %}{% continue %}{% endif %}{{ m | tojson }} {{ m.role | upper }}: {{ m.content }} {% endfor %}"""
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "system": SYSTEM, "plain": PLAIN}


def tokenizer(*, nfc: bool = False, trim: bool | None = False) -> Tokenizer:
    """Byte-level BPE with special tokens of chat templates, and one before each text.

    Args:
        nfc: it normalises texts.
        trim: leave spaces out of the offsets of tokens; None: there is no step that could.
    """
    made = Tokenizer(models.BPE())
    if nfc:
        made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    before = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    steps = [] if trim is None else [processors.ByteLevel(trim_offsets=trim)]
    made.post_processor = processors.Sequence([*steps, before])
    return made


def write_tokenizer(folder: Path, template: str | None, made: Tokenizer | None = None) -> Path:
    """A folder of Hugging Face with a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (made or tokenizer()).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    settings |= {"pad_token": "<pad>"} | ({} if template is None else {"chat_template": template})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def conversations(count: int = 40, seed: int = 0) -> list[Messages]:
    """Conversations with unicode, white space and the names of special tokens."""
    draw = random.Random(seed)

    def said() -> str:
        return "".join(draw.choices(PIECES, k=draw.randint(1, 8)))

    found: list[Messages] = []
    for number in range(count):
        turns = [{"role": role, "content": said()} for _ in range(1 + number % 3) for role in ("user", "assistant")]
        found.append([{"role": "system", "content": said()}, *turns] if number % 4 == 0 else turns)
    return found


def write_chats(path: Path, chats: list[Messages], column: str = "messages") -> Path:
    path.write_text("".join(json.dumps({"id": n, column: chat}) + "\n" for n, chat in enumerate(chats)))
    return path
