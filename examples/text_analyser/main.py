"""The entrypoint: checks the payload, measures the text, reports."""

from collections import Counter
from typing import Any

from language import count_sentences, count_syllables, words_of
from library import about_document, document_names, read_document, stop_words

MAX_CHARACTERS = 500_000
MAX_TOP = 100

# Silent reading of English non-fiction: M. Brysbaert, "How many words do we read per minute?",
# Journal of Memory and Language 109 (2019).
WORDS_PER_MINUTE = 238

# R. Flesch, "A new readability yardstick", Journal of Applied Psychology 32 (1948).
READING_LEVELS = (
    (90, "very easy"),
    (80, "easy"),
    (70, "fairly easy"),
    (60, "standard"),
    (50, "fairly difficult"),
    (30, "difficult"),
)


def handle(payload: dict[str, Any]) -> dict[str, Any]:
    """Report on payload["text"], or on the shipped text named by payload["document"].

    payload["top"] (default 10) says how many of the most frequent words to list. Raises
    ValueError if the payload names no text, or one without words.
    """
    text = _chosen_text(payload)
    top = _chosen_top(payload)
    report = _report(text, top)
    print(f"analysed {report['words']} words")
    if "document" in payload:
        return {"document": about_document(payload["document"]), **report}
    return report


def _report(text: str, top: int) -> dict[str, Any]:
    words = words_of(text)
    sentences = count_sentences(text)
    if not words:
        raise ValueError("the text has no words")

    words_per_sentence = len(words) / sentences
    syllables_per_word = sum(map(count_syllables, words)) / len(words)
    score = round(206.835 - 1.015 * words_per_sentence - 84.6 * syllables_per_word, 1)
    return {
        "characters": len(text),
        "words": len(words),
        "different_words": len(set(words)),
        "sentences": sentences,
        "words_per_sentence": round(words_per_sentence, 1),
        "syllables_per_word": round(syllables_per_word, 2),
        "reading_ease": {"score": score, "level": _level(score)},
        "reading_seconds": round(len(words) * 60 / WORDS_PER_MINUTE),
        "top_words": _top_words(words, top),
    }


def _top_words(words: list[str], top: int) -> list[dict[str, Any]]:
    """Return the most frequent words that are no stop words; equal counts by alphabet."""
    common = stop_words()
    counts = Counter(
        word for word in words if word not in common and word.partition("'")[0] not in common
    )
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return [{"word": word, "count": count} for word, count in ranked[:top]]


def _level(score: float) -> str:
    for lowest, level in READING_LEVELS:
        if score >= lowest:
            return level
    return "very difficult"


def _chosen_text(payload: dict[str, Any]) -> str:
    names = ", ".join(document_names())
    if ("text" in payload) == ("document" in payload):
        raise ValueError(f'send either "text" or "document" (one of {names})')
    if "document" in payload:
        if payload["document"] not in document_names():
            raise ValueError(f'"document" must be one of {names}')
        return read_document(payload["document"])
    text = payload["text"]
    if not isinstance(text, str):
        raise ValueError(f'"text" must be a text, not {type(text).__name__}')
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f'"text" has {len(text):,} characters; the most is {MAX_CHARACTERS:,}')
    return text


def _chosen_top(payload: dict[str, Any]) -> int:
    top = payload.get("top", 10)
    if isinstance(top, bool) or not isinstance(top, int) or not 0 <= top <= MAX_TOP:
        raise ValueError(f'"top" must be a whole number between 0 and {MAX_TOP}')
    return top
