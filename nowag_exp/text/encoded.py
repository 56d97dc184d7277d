"""Tokens of documents from which several windows are drawn."""

from array import array
from collections import OrderedDict

from nowag_exp.errors import RequestError, one_line
from nowag_exp.text.documents import Documents
from nowag_exp.text.tokenizer import Encode

MOST_KEPT = 2**26
"""Tokens, of 4 bytes. The last document is kept whatever its length, and the longest used of others goes first."""


class EncodedDocuments:
    """Documents that are tokenized when they are drawn, and not again as long as their tokens fit into memory.

    Args:
        documents: of them.
        encode: text to token ids.
        first: token ids that open each document.
    """

    def __init__(self, documents: Documents, encode: Encode, first: list[int]) -> None:
        self._documents, self._encode, self._first = documents, encode, first
        self._kept: OrderedDict[int, array[int]] = OrderedDict()
        self._n_kept = 0

    def __len__(self) -> int:
        return len(self._documents)

    def tokens(self, index: int) -> "array[int]":
        """Token ids of a document.

        Raises:
            RequestError: naming it, if the tokenizer refuses it.
        """
        if index not in self._kept:
            tokens = array("i", [*self._first, *encode_document(self._documents, index, self._encode)])
            self._kept[index] = tokens
            self._n_kept += len(tokens)
            while self._n_kept > MOST_KEPT and len(self._kept) > 1:
                self._n_kept -= len(self._kept.popitem(last=False)[1])
        self._kept.move_to_end(index)
        return self._kept[index]


def encode_document(documents: Documents, index: int, encode: Encode) -> list[int]:
    """Tokenize one document.

    Raises:
        RequestError: naming it, if the tokenizer refuses it.
    """
    text = documents[index]
    try:
        return encode(text)
    except Exception as error:  # The tokenizer is anybody's: what it raises depends on how it is built.
        raise RequestError(
            f"{documents.place(index)}: the model's tokenizer refuses it ({one_line(error)}); leave the document "
            "out, or change what the tokenizer cannot take"
        ) from error
