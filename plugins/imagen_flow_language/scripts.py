"""Tell in which scripts a text is written, and in which a language is."""

from __future__ import annotations

import re
import unicodedata

_HAN = frozenset({"CJK"})
_BY_LANGUAGE = {
    "ar fa ps sd ug ur": frozenset({"ARABIC"}),
    "be bg kk ky mk mn ru tg uk": frozenset({"CYRILLIC"}),
    "bn": frozenset({"BENGALI"}),
    "el": frozenset({"GREEK"}),
    "gu": frozenset({"GUJARATI"}),
    "he iw yi": frozenset({"HEBREW"}),
    "hi mr ne": frozenset({"DEVANAGARI"}),
    "hy": frozenset({"ARMENIAN"}),
    "ja": frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"}),
    "ka": frozenset({"GEORGIAN"}),
    "km": frozenset({"KHMER"}),
    "ko": frozenset({"HANGUL", "CJK"}),
    "lo": frozenset({"LAO"}),
    "ml": frozenset({"MALAYALAM"}),
    "my": frozenset({"MYANMAR"}),
    "pa": frozenset({"GURMUKHI"}),
    "si": frozenset({"SINHALA"}),
    "ta": frozenset({"TAMIL"}),
    "te": frozenset({"TELUGU"}),
    "th": frozenset({"THAI"}),
    "zh": _HAN,
    "af ca cs cy da de en es et eu fi fr ga gl hr hu id is it lt lv ms nb nl nn no pl pt ro sk sl sq"
    " sv sw tl tr vi": frozenset({"LATIN"}),
}
"""Scripts of languages by ISO 639-1, as the names of their characters begin in Unicode."""

_BY_CODE = {
    "Arab": "ar",
    "Armn": "hy",
    "Beng": "bn",
    "Cyrl": "ru",
    "Deva": "hi",
    "Geor": "ka",
    "Grek": "el",
    "Gujr": "gu",
    "Guru": "pa",
    "Hang": "ko",
    "Hans": "zh",
    "Hant": "zh",
    "Hebr": "he",
    "Jpan": "ja",
    "Khmr": "km",
    "Laoo": "lo",
    "Latn": "en",
    "Mlym": "ml",
    "Mymr": "my",
    "Sinh": "si",
    "Taml": "ta",
    "Telu": "te",
    "Thai": "th",
}
"""A language for each ISO 15924 code of a script."""


def scripts_of(language: str) -> frozenset[str]:
    """Return the scripts of a language code, such as ``zh``, ``zh_CN`` or ``zho_Hans``; none if
    they are not known.
    """
    name, _, region = language.partition("_")
    wanted = _BY_CODE.get(region, name)
    return next(
        (scripts for names, scripts in _BY_LANGUAGE.items() if wanted in names.split()),
        frozenset(),
    )


def scripts_in(text: str) -> frozenset[str]:
    """Return the scripts of the letters in a text."""
    return frozenset(
        re.sub(r"^(FULLWIDTH|HALFWIDTH) ", "", unicodedata.name(letter, "")).partition(" ")[0]
        for letter in set(text)
        if letter.isalpha()
    )
