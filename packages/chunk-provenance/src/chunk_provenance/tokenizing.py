"""Train tokenizers, and encode documents to token ids with the characters each token covers, as arrays.

Costs little more than `tokenizers` itself: for byte-level tokenizers (GPT-2, NeoX, OLMo, Llama 3 ...) the
characters follow from the tokens' byte lengths by cumulative sums; for any other tokenizer they are taken
from its own offsets, with a slower copy from Python objects. Needs the extra `tokenize`.

Every document gets exactly one end token, after its text. Special tokens that stand in a text as words are
encoded as words. Truncation, padding and post-processing that a tokenizer's file asks for are switched off.
"""

import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

END_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>")
PAD_TOKENS = ("<|padding|>", "<|pad|>", "<pad>", "[PAD]")

Chars = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """Documents laid end to end, each closed by the end token.

    Token `i` covers the characters `char_start[i] : char_end[i]` of its document; both ascend inside a
    document, and together the tokens cover all of its text. The tokens of a split character all cover it, but
    the first of them may begin earlier. The end token covers nothing.
    """

    ids: npt.NDArray[np.uint32]  # (tokens,)
    char_start: Chars  # (tokens,)
    char_end: Chars  # (tokens,)
    doc_bounds: Chars  # (documents + 1,)


class TextEncoder:
    """A tokenizer ready to encode documents.

    Args:
        content: the text of a tokenizer.json.
        eos_token: the end token, where it is none of the usual ones.

    Raises:
        ValueError: the content is no tokenizer or has no end token.
    """

    def __init__(self, content: str, *, eos_token: str | None = None) -> None:
        """Parse the tokenizer and find its end and padding tokens."""
        self.content = content
        self._tokenizer = _parse_tokenizer(content)
        self._tokenizer.encode_special_tokens = True
        self.eos_id = self._find_end(eos_token)
        self.pad_id = next(
            (i for i in map(self._tokenizer.token_to_id, PAD_TOKENS) if i is not None), self.eos_id
        )

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return int(1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values()))

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode documents; see `Encoded`."""
        if not texts:
            nothing = np.empty(0, dtype=np.int64)
            return Encoded(nothing.astype(np.uint32), nothing, nothing, np.zeros(1, dtype=np.int64))
        if self._byte_lengths is None or not all(map(self._keeps_bytes, texts)):
            return self._encode_with_offsets(texts)
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ids, doc_bounds = self._join(encodings)
        encoded = count_characters(ids, doc_bounds, texts, self._byte_lengths)
        return self._encode_with_offsets(texts) if encoded is None else encoded

    def decode(self, ids: npt.NDArray[np.uint32], doc_bounds: Chars) -> tuple[list[str], Encoded]:
        """The texts of documents that another program encoded, and the characters of their tokens.

        Args:
            ids: the documents' tokens, each closed by the end token, (tokens,).
            doc_bounds: where each begins, and where the last ends, (documents + 1,).

        Raises:
            ValueError: the tokens are not of this tokenizer, or it is none of whole bytes.
        """
        if self._byte_lengths is None:
            raise ValueError("only the tokens of a byte-level tokenizer tell which characters they cover")
        if len(ids) and int(ids.max()) >= self.vocab_size:
            raise ValueError(f"the tokenizer has {self.vocab_size:,} tokens, found the token {ids.max()}")
        if np.any(ids[doc_bounds[1:] - 1] != self.eos_id):
            raise ValueError(f"a document does not end in the tokenizer's end token {self.eos_id}")
        pieces = [ids[start : end - 1].tolist() for start, end in pairwise(doc_bounds.tolist())]
        texts: list[str] = self._tokenizer.decode_batch(pieces, skip_special_tokens=False)
        encoded = count_characters(ids, doc_bounds, texts, self._byte_lengths) if any(texts) else None
        if encoded is None and any(texts):
            raise ValueError("the tokens do not spell UTF-8 text in this tokenizer")
        nothing = np.zeros(len(ids), dtype=np.int64)
        return texts, encoded or Encoded(ids, nothing, nothing, doc_bounds)

    def _encode_with_offsets(self, texts: Sequence[str]) -> Encoded:
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        ids, doc_bounds = self._join(encodings)
        offsets = [np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2) for encoding in encodings]
        tiled = [tile(own, len(text)) for own, text in zip(offsets, texts, strict=True)]
        char_start, char_end = (np.concatenate([pair[side] for pair in tiled]) for side in (0, 1))
        return Encoded(ids, char_start, char_end, doc_bounds)

    def _join(self, encodings: Sequence[Any]) -> tuple[npt.NDArray[np.uint32], Chars]:
        """All token ids with an end token after each document, and the documents' bounds."""
        lists = [encoding.ids for encoding in encodings]
        doc_bounds = np.cumsum([0] + [len(ids) + 1 for ids in lists])
        joined = chain.from_iterable(chain(ids, (self.eos_id,)) for ids in lists)
        return np.fromiter(joined, dtype=np.uint32, count=int(doc_bounds[-1])), doc_bounds

    @cached_property
    def _byte_lengths(self) -> Chars | None:
        """Bytes of text each token id stands for, where ids determine them; else None."""
        spec = json.loads(self._tokenizer.to_str())
        normalizer = (spec["normalizer"] or {}).get("type")
        if spec["model"].get("type") != "BPE" or normalizer not in (None, "NFC") or not _is_byte_level(spec):
            return None
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for token, token_id in self._tokenizer.get_vocab(with_added_tokens=False).items():
            lengths[token_id] = len(token)  # each character of a byte-level token is a byte
        for added in spec["added_tokens"]:
            lengths[added["id"]] = len(added["content"].encode("utf-8"))
        lengths[self.eos_id] = 0
        return lengths

    @cached_property
    def _normalizes(self) -> bool:
        return self._tokenizer.normalizer is not None

    def _keeps_bytes(self, text: str) -> bool:
        return not self._normalizes or unicodedata.is_normalized("NFC", text)

    def _find_end(self, eos_token: str | None) -> int:
        for token in (eos_token,) if eos_token else END_TOKENS:
            if (found := self._tokenizer.token_to_id(token)) is not None:
                return int(found)
        special = [t.content for t in self._tokenizer.get_added_tokens_decoder().values() if t.special]
        raise ValueError(
            f"the tokenizer has none of the end tokens {[eos_token] if eos_token else list(END_TOKENS)}, "
            f"its special tokens are {special[:20]}: name one with --eos-token"
        )


def count_characters(
    ids: npt.NDArray[np.uint32], doc_bounds: Chars, texts: Sequence[str], byte_lengths: Chars
) -> Encoded | None:
    """The characters of tokens whose byte lengths are known; None where they do not add up to the texts.

    Without a normaliser a tokenizer can only leave bytes out; equal sums mean that it left out none.
    """
    utf8 = [text.encode("utf-8") for text in texts]
    content = np.frombuffer(b"".join(utf8), dtype=np.uint8)
    byte_end = np.cumsum(byte_lengths[ids])
    last = doc_bounds[1:] - 1  # the end tokens
    if not len(content) or not np.array_equal(byte_end[last], np.cumsum([len(part) for part in utf8])):
        return None
    char_of_byte = np.cumsum((content & 0xC0) != 0x80) - 1  # all but UTF-8's continuation bytes begin one
    char_start = char_of_byte[np.minimum(byte_end - byte_lengths[ids], len(content) - 1)]
    char_end = char_of_byte[byte_end - 1] + 1
    text_chars = np.array([len(text) for text in texts])
    text_stops = np.cumsum(text_chars)
    char_start[last] = char_end[last] = text_stops
    shift = np.repeat(text_stops - text_chars, np.diff(doc_bounds))
    return Encoded(ids, char_start - shift, char_end - shift, doc_bounds)


def tile(offsets: Chars, num_chars: int) -> tuple[Chars, Chars]:
    """A tokenizer's own offsets and the end token's, made to cover the whole text in ascending order.

    Some tokenizers leave spaces out: a gap belongs to the token after it, one at the end to the last token.

    >>> tile(np.array([[0, 2], [3, 6]]), 7)
    (array([0, 2, 7]), array([2, 7, 7]))
    """
    char_end = np.append(np.maximum.accumulate(offsets[:, 1]), num_chars)
    if len(offsets):
        char_end[-2] = num_chars
    before = np.concatenate([[0], char_end[:-1]])
    char_start = np.minimum(np.append(offsets[:, 0], num_chars), before)
    return np.maximum.accumulate(char_start), char_end


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> str:
    """Train a byte-level BPE tokenizer; the content of its tokenizer.json. Same texts, same bytes.

    Args:
        texts: documents in a fixed order.
        vocab_size: tokens, the 256 bytes and the special tokens <|endoftext|> and <|padding|> included.

    Raises:
        ValueError: `vocab_size` does not even hold the bytes.
    """
    tokenizers = import_tokenizers()
    if vocab_size < 258:
        raise ValueError(f"--vocab-size {vocab_size} is too small: 256 bytes and 2 special tokens need 258")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|padding|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    content: str = tokenizer.to_str(pretty=True)
    return content + "\n"


def load_encoder(path: str | Path, *, eos_token: str | None = None) -> TextEncoder:
    """Read a tokenizer.json.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no tokenizer.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer at {str(path)!r}: 'chunk-provenance tokenizer' trains one")
    try:
        return TextEncoder(path.read_text(encoding="utf-8"), eos_token=eos_token)
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is no tokenizer.json: it is not UTF-8") from error


def import_tokenizers() -> Any:
    """The `tokenizers` library, or a sentence that says how to get it."""
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError("tokenizing needs the extra: pip install 'chunk-provenance[tokenize]'") from error
    return tokenizers


def _parse_tokenizer(content: str) -> Any:
    """The tokenizer, without what would cut texts, add tokens or trim spaces off the offsets."""
    tokenizers = import_tokenizers()
    try:
        spec = json.loads(content)
    except ValueError as error:
        raise ValueError(f"the tokenizer's file is no JSON: {error}") from error
    if not isinstance(spec, dict) or "model" not in spec:
        raise ValueError("the tokenizer's file is no tokenizer.json: it has no 'model'")
    bare = {**spec, "truncation": None, "padding": None, "post_processor": None}
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(bare))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(
            f"the tokenizer's file is no tokenizer.json that this tokenizers reads: {error}"
        ) from error


def _is_byte_level(spec: dict[str, Any]) -> bool:
    """Whether the pre-tokenizer maps bytes to characters and adds no space."""
    pre_tokenizer = spec["pre_tokenizer"] or {}
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    return any(step.get("type") == "ByteLevel" and not step["add_prefix_space"] for step in steps)
