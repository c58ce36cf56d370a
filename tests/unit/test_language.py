"""A text's language is guessed from its script and its frequent words."""

from __future__ import annotations

import pytest
from splitting import SENTENCES

from pipeline.language import guess_language


@pytest.mark.parametrize("language", SENTENCES)
def test_language_is_guessed(language: str) -> None:
    text = {"tr": "Bu çok güzel bir gün.", "pl": "To nie jest prawda."}.get(language)
    text = text or " ".join(SENTENCES[language])
    assert guess_language(text) == language


def test_language_of_no_letters_is_english() -> None:
    assert guess_language("123 ...") == "en"
    assert guess_language("A word from Москва and one from 北京, said the old man.") == "en"
