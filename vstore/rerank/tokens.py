"""The small tokenizer of lexical relevance: words, and the parts of camelCase and snake_case names."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+(?:_+[^\W_]+)*")
_PART = re.compile(
    r"[A-ZÀ-ÖØ-Þ]+(?![a-zß-öø-ÿ])"  # HTTP in HTTPServer
    r"|[A-ZÀ-ÖØ-Þ]?[a-zß-öø-ÿ]+"  # Server, open
    r"|\d+|[^\W\d_]+"
)
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")


def tokenize(text: str) -> list[str]:
    """Return a text's tokens, case-folded, in order.

    A name of several parts gives its parts and then itself whole, underscores left out:
    "ZipFile.open_all" gives zip, file, zipfile, open, all, openall. English plurals lose their s
    (Harman 1991, the S stemmer). Han and kana, written without spaces, give overlapping pairs.
    """
    tokens: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFKC", text)):
        if _UNSPACED.search(word):
            tokens += _unspaced(word)
            continue
        parts = _PART.findall(word)
        tokens += [_singular(part.casefold()) for part in parts]
        if len(parts) > 1:
            tokens.append(_singular(word.replace("_", "").casefold()))
    return tokens


def _unspaced(word: str) -> list[str]:
    tokens: list[str] = []
    end = 0
    for run in _UNSPACED.finditer(word):
        tokens += tokenize(word[end : run.start()])
        characters = run.group()
        tokens += [characters[i : i + 2] for i in range(len(characters) - 1)] or [characters]
        end = run.end()
    return tokens + tokenize(word[end:])


def _singular(word: str) -> str:
    if len(word) < 4 or not word.endswith("s"):
        return word
    if word.endswith("ies"):
        return word if word[-4] in "ae" else word[:-3] + "y"
    if word.endswith("es"):
        return word if word[-3] in "aeo" else word[:-1]
    return word if word[-2] in "us" else word[:-1]
