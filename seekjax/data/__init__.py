"""What a model reads: corpora, tokenizers, and batches whose position resumes exactly.

For example:

    # open the sources, and read and check every document once
    corpus = load_corpus(config.data)
    tokenizer = load_tokenizer(config.data, config.model.vocab, corpus)

    # {"tokens", "segments"}, each int32 [batch, sequence + 1]
    for batch in train_batches(config.data, corpus, tokenizer, batch=32, seed=0):
        ...
"""

from seekjax.data.batches import eval_batches, train_batches
from seekjax.data.corpus import Corpus, Source, load_corpus
from seekjax.data.held_out import exact_batches, held_out_text, xz_bits_per_byte
from seekjax.data.sources import SOURCES, stories
from seekjax.data.split import Split
from seekjax.data.tokenizer import Tokenizer, load_tokenizer, read_tokenizer
from seekjax.errors import DataError

__all__ = [
    "SOURCES",
    "Corpus",
    "DataError",
    "Source",
    "Split",
    "Tokenizer",
    "eval_batches",
    "exact_batches",
    "held_out_text",
    "load_corpus",
    "load_tokenizer",
    "read_tokenizer",
    "stories",
    "train_batches",
    "xz_bits_per_byte",
]
