"""Text encoders and their tokenizers."""

from fromnoise.text.tokenizers import BPETokenizer, ByteTokenizer, Tokenizer
from fromnoise.text.trained import TextEncoder, Trained

__all__ = ["BPETokenizer", "ByteTokenizer", "TextEncoder", "Tokenizer", "Trained"]
