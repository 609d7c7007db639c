"""Text encoders and their tokenizers."""

from fromnoise.text.composed import composed, parts
from fromnoise.text.emphasis import emphasis
from fromnoise.text.families import FAMILIES
from fromnoise.text.frozen import Frozen, FrozenText
from fromnoise.text.labels import LabelEncoder, Labels
from fromnoise.text.prompts import read_prompts
from fromnoise.text.tokenizers import BPETokenizer, ByteTokenizer, Tokenizer
from fromnoise.text.towers import FrozenEncoder, Tower, Towers
from fromnoise.text.trained import TextEncoder, Trained
from fromnoise.text.words import unseen, words_of

__all__ = ["FAMILIES", "BPETokenizer", "ByteTokenizer", "Frozen", "FrozenEncoder", "FrozenText", "LabelEncoder",
           "Labels", "TextEncoder", "Tokenizer", "Tower", "Towers", "Trained", "composed", "emphasis", "parts",
           "read_prompts", "unseen", "words_of"]
