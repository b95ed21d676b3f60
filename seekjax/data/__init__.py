"""What the model reads: corpora, tokenizers, and batches whose position resumes exactly.

corpus = load_corpus(config.data)                                   every document read and checked
once tokenizer = load_tokenizer(config.data, config.model.vocab, corpus) batches =
train_batches(config.data, corpus, tokenizer, batch=32, seed=0) for batch in batches: ...
{"tokens", "segments"}: int32 [batch, sequence + 1]
"""

from seekjax.data.batches import eval_batches, train_batches
from seekjax.data.corpus import Corpus, Source, load_corpus
from seekjax.data.held_out import document_batches, exact_batches, held_out_text, xz_bits_per_byte
from seekjax.data.sources import stories
from seekjax.data.tokenizer import Tokenizer, load_tokenizer, read_tokenizer
from seekjax.errors import DataError

__all__ = [
    "Corpus",
    "DataError",
    "Source",
    "Tokenizer",
    "document_batches",
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
