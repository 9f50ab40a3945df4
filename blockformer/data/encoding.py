"""Encode a corpus document by document into files of tokens, in little memory."""

from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockformer.data.chat_tokens import ChatEncoder
from blockformer.data.compression import Compression
from blockformer.data.corpora.corpus import SPLITS, Chat, Corpus, Labelled, size_of
from blockformer.data.sequences import SplitFiles
from blockformer.data.tokenizer import Tokenizer
from blockformer.data.tokenizers.byte_level import ByteLevelTokenizer
from blockformer.errors import DataError

_AT_ONCE = 2**20  # characters that wait to be encoded, of documents of usual size; the library encodes them in parallel


def encode(corpus: Corpus, tokenizer: Tokenizer, folder: Path, longest: int | None) -> dict[str, "EncodedSplit"]:
    """Write the tokens of all splits of a corpus.

    Args:
        corpus: The documents, pairs, labelled texts or conversations.
        tokenizer: Encodes them.
        folder: Where to write.
        longest: Leave out pairs with more tokens on a side; None: keep all.

    Raises:
        DataError: The corpus cannot be read.
        OSError: The tokens cannot be written.
    """

    def of(split: str) -> EncodedSplit:
        files = SplitFiles(folder, split, tokenizer.vocab_size, opened)
        if chats is not None:
            return EncodedChats(files, tokenizer, chats)
        if corpus.labelled:
            return EncodedLabelled(files, tokenizer, corpus.labelled)
        if corpus.paired:
            return EncodedPairs(files, tokenizer, longest)
        return EncodedDocuments(files, tokenizer)

    with ExitStack() as opened:  # after an error, no file stays open
        chats = opened.enter_context(ChatEncoder(tokenizer)) if corpus.chats else None
        splits = {split: of(split) for split in SPLITS}
        for split, document in corpus.watched("encoding"):
            splits[split].add(document)
        for one in splits.values():
            one.close()
    return splits


class EncodedSplit(ABC):
    """A split whose tokens are written.

    Attributes:
        counts: Facts to log, complete after :meth:`close`.
        longest: Of pairs, the tokens of the longest side, left out or not.
        compression: Of the texts that are scored.
    """

    def __init__(self, files: SplitFiles, tokenizer: Tokenizer) -> None:
        self.counts: dict[str, int] = {}
        self.longest, self.compression = 0, Compression()
        self._scored = files.split == "validation"
        self._tokenizer = tokenizer
        self._sizes = None if isinstance(tokenizer, ByteLevelTokenizer) else tokenizer.byte_lengths
        self._changed = 0
        self._waiting: list[Any] = []
        self._size = 0

    def add(self, document: Any) -> None:
        """Encode a document or a pair, together with others."""
        self._waiting.append(document)
        self._size += self._characters(document)
        if self._size >= _AT_ONCE:
            self._flush()

    def close(self) -> None:
        """Encode what is left, and complete the files."""
        self._flush()
        self._end()

    def _flush(self) -> None:
        if self._waiting:
            self._write(self._waiting)
        self._waiting, self._size = [], 0

    def _scored_bytes(self, text: str, ids: NDArray[Any]) -> int:
        """The bytes of a text that is scored; notes if its tokens have others, as after a normalisation."""
        size = len(text.encode())
        if self._sizes is not None and int(self._sizes[ids].sum()) != size:
            self._changed += 1
        return size

    def _count(self, **counts: int) -> None:
        """Set `counts`, with the number of `changed` texts if there are any."""
        self.counts = counts | ({"changed": self._changed} if self._changed else {})

    @abstractmethod
    def _characters(self, document: Any) -> int: ...

    @abstractmethod
    def _write(self, documents: list[Any]) -> None: ...

    @abstractmethod
    def _end(self) -> None: ...


class EncodedDocuments(EncodedSplit):
    """Documents, each after a BOS."""

    def __init__(self, files: SplitFiles, tokenizer: Tokenizer) -> None:
        super().__init__(files, tokenizer)
        self._writer, self._bytes = files.sequences(), 0
        self._before = np.array([tokenizer.bos])

    def _characters(self, document: str) -> int:
        return len(document)

    def _write(self, documents: list[str]) -> None:
        encoded = self._tokenizer.encode_many(documents)
        self._writer.write(np.concatenate((self._before, ids)) for ids in encoded)
        for document, ids in zip(documents, encoded, strict=True):
            self._bytes += self._scored_bytes(document, ids)
            if self._scored:
                self.compression.add(document)

    def _end(self) -> None:
        self._writer.close()
        self._count(documents=self._writer.count, tokens=self._writer.tokens, bytes=self._bytes)


class EncodedPairs(EncodedSplit):
    """Pairs: sources with the special tokens around them, targets after a BOS."""

    def __init__(self, files: SplitFiles, tokenizer: Tokenizer, longest: int | None) -> None:
        super().__init__(files, tokenizer)
        self._sources, self._targets = files.sequences("source"), files.sequences("target")
        before, after = tokenizer.around("encoder_decoder")
        self._source = tuple(np.array(ids, np.int64) for ids in (before, after))
        self._before = np.array([tokenizer.bos])
        self._limit, self._left_out, self._bytes = np.inf if longest is None else longest, 0, 0

    def _characters(self, document: tuple[str, str]) -> int:
        return len(document[0]) + len(document[1])

    def _write(self, documents: list[tuple[str, str]]) -> None:
        kept: tuple[list[NDArray[Any]], list[NDArray[Any]]] = ([], [])
        encoded = [self._tokenizer.encode_many([pair[side] for pair in documents]) for side in (0, 1)]
        for (_, target), source_ids, target_ids in zip(documents, *encoded, strict=True):
            source_ids = np.concatenate((self._source[0], source_ids, self._source[1]))
            length = max(len(source_ids), len(target_ids) + 1)
            self.longest = max(self.longest, length)
            if length > self._limit:
                self._left_out += 1
                continue
            kept[0].append(source_ids)
            kept[1].append(np.concatenate((self._before, target_ids)))
            self._bytes += self._scored_bytes(target, target_ids)
            if self._scored:
                self.compression.add(target)
        self._sources.write(kept[0])
        self._targets.write(kept[1])

    def _end(self) -> None:
        self._sources.close()
        self._targets.close()
        self._count(
            pairs=self._sources.count,
            too_long=self._left_out,
            tokens=self._sources.tokens + self._targets.tokens,
            bytes=self._bytes,
        )


class EncodedLabelled(EncodedSplit):
    """Labelled texts, without special tokens: a file for each of their one or two texts, and the labels.

    Args:
        files: Where to write.
        tokenizer: Encodes the texts.
        texts: How many of each there are.
    """

    def __init__(self, files: SplitFiles, tokenizer: Tokenizer, texts: int) -> None:
        super().__init__(files, tokenizer)
        self._writers = [files.sequences(f"text{part}") for part in range(texts)]
        self._labels, self._bytes = files.labels(), 0

    def _characters(self, document: Labelled) -> int:
        return sum(map(len, document.texts))

    def _write(self, documents: list[Labelled]) -> None:
        for part, writer in enumerate(self._writers):
            writer.write(self._tokenizer.encode_many([one.texts[part] for one in documents]))
        self._labels.write([one.label for one in documents])
        self._bytes += sum(map(size_of, documents))

    def _end(self) -> None:
        for writer in (*self._writers, self._labels):
            writer.close()
        tokens = sum(writer.tokens for writer in self._writers)
        self._count(documents=self._labels.count, tokens=tokens, bytes=self._bytes)


class EncodedChats(EncodedSplit):
    """Conversations as their template writes them: a file of their tokens, and one of which of these are answers."""

    def __init__(self, files: SplitFiles, tokenizer: Tokenizer, encoder: ChatEncoder) -> None:
        super().__init__(files, tokenizer)
        self._tokens, self._answers = files.sequences(), files.sequences("answers", 2)
        self._encoder, self._split = encoder, files.split
        self._targets = self._bytes = self._unanswered = 0

    def _characters(self, document: Chat) -> int:
        return sum(map(len, document.contents))

    def _write(self, documents: list[Chat]) -> None:
        for ids, answers, others, text in self._encoder.encode(documents):
            answers[:1] = False  # nothing is before it
            if not answers.any():
                self._unanswered += 1
                continue
            self._tokens.write([ids])
            self._answers.write([answers])
            self._targets += int(answers.sum())
            if self._sizes is not None and int(self._sizes[ids].sum()) != len(text.encode()) - others:
                self._changed += 1
            answer = self._tokenizer.decode(ids[answers])
            self._bytes += len(answer.encode())
            if self._scored:
                self.compression.add(answer)

    def _end(self) -> None:
        self._tokens.close()
        self._answers.close()
        number = self._tokens.count
        if self._split == "train" and not number:
            raise DataError(f"chat: none of the {self._unanswered} conversations to train on has an answer")
        self._count(
            conversations=number,
            unanswered=self._unanswered,
            tokens=self._tokens.tokens,
            targets=self._targets,
            bytes=self._bytes,
        )
