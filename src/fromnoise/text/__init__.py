"""Text encoders and their tokenizers."""

from fromnoise.text.tokenizers import BPETokenizer, ByteTokenizer, Tokenizer
from fromnoise.text.trained import TextEncoder, Trained
from fromnoise.text.words import unseen, words_of

__all__ = ["BPETokenizer", "ByteTokenizer", "TextEncoder", "Tokenizer", "Trained", "unseen", "words_of"]
