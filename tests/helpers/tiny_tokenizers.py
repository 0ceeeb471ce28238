"""Tokenizers of a few tokens, one for each way in which tokens become text."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPACED = ["▁", "▁▁", "a", "▁the", "é", "�", "?", "▁Q:", "ing", "\n", "▁yes", "▁no", "▁Yes", "1", "2"]
SHOWN = ["he", "Ġa", "ĠðŁ", "ĺĢ", "Ã©", "éĽ", "bÃ", "©c", "Ċ", "ï¿½"]
JOINED = ["a", "##b", "the", "##ing", ".", "##.", "'", "s", "n't", "do", "not", "é", "##é", ",", "I"]
FUSED = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


def _bpe(tokens, decoder, **options):
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return _wrapped(Tokenizer(models.BPE(vocab, [], **options)), decoder)


def _wrapped(backend, decoder):
    backend.decoder = decoder
    backend.add_special_tokens(["<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def byte_level():
    """As GPT-2's, Llama 3's and Qwen's."""
    found = _bpe([*sorted(pre_tokenizers.ByteLevel.alphabet()), *SHOWN], decoders.ByteLevel())
    found.add_tokens(["<0x0A>", "�x é"])  # text, not bytes
    return found


def llama_2():
    """Byte fallback, and the text's first space is none."""
    return _bpe([*BYTES, *SPACED], decoders.Sequence([*FUSED, decoders.Strip(" ", 1, 0)]), byte_fallback=True)


def gemma():
    """Byte fallback, all spaces as they are."""
    return _bpe([*BYTES, *SPACED], decoders.Sequence(FUSED), byte_fallback=True)


def word_piece():
    """As BERT's: a token is a word but for those with ##, and spaces before punctuation vanish."""
    vocab = {token: i for i, token in enumerate(JOINED)}
    return _wrapped(Tokenizer(models.WordPiece(vocab, unk_token="a")), decoders.WordPiece())


def metaspace():
    """As T5's: spaces are part of tokens, without bytes."""
    return _bpe(SPACED, decoders.Metaspace())


def gpt_1():
    """A token that ends a word has a space after it only where another follows."""
    return _bpe(["a", "b</w>", "the</w>", "in", "g</w>", "é"], decoders.BPEDecoder("</w>"))


TOKENIZERS = [byte_level, llama_2, gemma, word_piece, metaspace, gpt_1]
