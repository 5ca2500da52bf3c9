"""Embeddings: texts made into vectors by a static model in a local directory; no network, now or at any time.

The directory is laid out as Model2Vec has it: `tokenizer.json`, `model.safetensors` and, unless empty, `config.json`.
Such a model is a table with a vector for each token, and a text is the mean of its tokens' vectors: tens of
microseconds without an accelerator, the same on every machine. What the vectors mean is judged in `core.meaning`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

TOKENS_MAX: Final = 512
"""Tokens of a text that are looked at."""
FILES: Final = ("tokenizer.json", "model.safetensors")
EXTRA: Final = "crewkeeper[embeddings]"


class EmbeddingsError(Exception):
    """A model cannot be used; says where, why and what to do."""


def load(directory: Path) -> Callable[[str], Sequence[float]]:
    """Load a model.

    Args:
        directory: Where its files are.

    Returns:
        What gives the vector of a text: as many numbers for every text, all zero for a text without a known token.

    Raises:
        EmbeddingsError: The extra is not installed, a file is missing, or it is no such model.
    """
    try:
        import numpy as np
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer
    except ImportError as error:
        raise EmbeddingsError(f"{error.name} is not installed: embeddings need `pip install '{EXTRA}'`") from error
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise EmbeddingsError(f"{directory}: has no {' and no '.join(missing)}: give the directory of a static model")
    try:
        tensors = load_file(directory / FILES[1])
    except (OSError, SafetensorError) as error:
        raise EmbeddingsError(f"{directory / FILES[1]}: cannot be read: {error}") from error
    try:
        tokenizer = Tokenizer.from_file(str(directory / FILES[0]))
    except Exception as error:  # the library raises nothing narrower
        raise EmbeddingsError(f"{directory / FILES[0]}: cannot be read: {error}") from error
    table: Any = tensors.get("embeddings", tensors.get("embedding.weight"))
    size = tokenizer.get_vocab_size()
    mapping = tensors.get("mapping")
    if table is None or table.ndim != 2 or len(table if mapping is None else mapping) < size:
        raise EmbeddingsError(
            f"{directory / FILES[1]}: has no table `embeddings` with a vector for each of {size} tokens"
        )
    table = table.astype(np.float64)
    rows = np.arange(size) if mapping is None else mapping
    weights = tensors.get("weights")
    tokenizer.enable_truncation(TOKENS_MAX)

    def embed(text: str) -> Sequence[float]:
        ids = np.asarray(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64)
        if not len(ids):
            return [0.0] * table.shape[1]
        vectors = table[rows[ids]]
        if weights is not None:
            vectors = vectors * weights[ids][:, None]
        found: list[float] = vectors.mean(axis=0).tolist()
        return found

    return embed
