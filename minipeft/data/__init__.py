"""Data: what every Python has, what a package carries, and what `minipeft fetch` gets."""

from minipeft.data.austen import load_austen
from minipeft.data.batches import Batches, LanguageModelBatches
from minipeft.data.bpe import BytePairs
from minipeft.data.digits import load_digits
from minipeft.data.sentiment import load_sentiment, split_sentiment
from minipeft.data.text import CharTokenizer, documentation_text, documentation_topics, library_source
from minipeft.data.wordpiece import WordPiece

__all__ = [
    "Batches",
    "BytePairs",
    "CharTokenizer",
    "LanguageModelBatches",
    "WordPiece",
    "documentation_text",
    "documentation_topics",
    "library_source",
    "load_austen",
    "load_digits",
    "load_sentiment",
    "split_sentiment",
]
