"""Text encoders and their tokenizers."""

from fromnoise.text.composed import composed, parts
from fromnoise.text.tokenizers import BPETokenizer, ByteTokenizer, Tokenizer
from fromnoise.text.trained import TextEncoder, Trained
from fromnoise.text.words import unseen, words_of

__all__ = ["BPETokenizer", "ByteTokenizer", "TextEncoder", "Tokenizer", "Trained", "composed", "parts",
           "unseen", "words_of"]
