"""Tokenizers of four kinds, trained on a few sentences: they differ in how a text is spelled from its tokens."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

KINDS = ("byte-level", "byte fallback", "WordPiece", "Metaspace")
TEXT = [
    "Ada has 5 pens. Ben has 12 pens, and Ada gives him 3 more.",
    "How many pens does Ben have now? 12 + 3 = 15.",
] * 9
SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>"]


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """`byte fallback` is made as Llama 2's: a space before every text, which its decoder strips, and a first token."""
    bpe = {"special_tokens": SPECIAL, "vocab_size": 400}
    made = Tokenizer(models.WordPiece(unk_token="<unk>") if kind == "WordPiece" else models.BPE(unk_token="<unk>"))
    if kind == "byte-level":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **bpe)
    elif kind == "byte fallback":
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.decoder = decoders.Sequence([
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
        ])  # fmt: skip
        bytes_ = [f"<0x{i:02X}>" for i in range(256)]
        trainer = trainers.BpeTrainer(special_tokens=SPECIAL + bytes_, vocab_size=700)
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    elif kind == "WordPiece":
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece(cleanup=False)
        trainer = trainers.WordPieceTrainer(**bpe)
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        made.decoder = decoders.Metaspace(prepend_scheme="never")
        trainer = trainers.BpeTrainer(**bpe)
    made.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
