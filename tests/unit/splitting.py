"""What the tests of long text share: a count of word pieces, a split, sentences to part at."""

from __future__ import annotations

import re

from pipeline.segments import split_text

SILENT = re.compile(r"[\u200b-\u200f\u0300-\u036f]")

# language, sentences: the same three or four, repeated, must part at their ends alone
SENTENCES = {
    "en": ["Mr. and Mrs. Jones came at 5 p.m. on Monday.", "It cost $3.14!", "Did J. R. R. know?"],
    "de": ["Dr. Müller kam am 3. Mai an.", "Das war z. B. sehr früh.", "Warum denn das?"],
    "es": ["El Sr. Gómez llegó a las 5.", "¿Dónde estabas?", "La Dra. Pérez no vino."],
    "fr": ["Mme Durand, p. ex., n'est pas venue !", "Où étiez-vous ?", "M. Dupont est là."],
    "hi": ["मैं घर जा रहा हूँ।", "तुम कहाँ हो?", "डॉ. शर्मा आए।"],
    "it": ["Il sig. Rossi è arrivato.", "Dov'eri?", "Il dott. Bianchi non c'era!"],
    "ja": ["私は学生です。", "あなたは誰ですか?", "円周率は3.14です。", "すごい!"],
    "ko": ["안녕하세요.", "어디에 있었어요?", "원주율은 3.14입니다."],
    "pl": ["Dr Nowak przyszedł.", "Gdzie byłeś?", "Prof. Kowalski, np. wczoraj, nie przyszedł!"],
    "pt": ["O Sr. Silva chegou.", "Onde você estava?", "A Dra. Costa não veio!"],
    "ru": ["Доктор Иванов пришёл.", "Где ты был?", "А. С. Пушкин писал стихи!"],
    "tr": ["Dr. Yılmaz geldi.", "Neredeydin?", "Prof. Kaya gelmedi!"],
    "zh": ["我是学生。", "你在哪里?", "太好了!"],
}


def count_tokens(text: str) -> int:
    """Count about as word pieces do: five letters a piece, every other character one."""
    text = SILENT.sub("", text)
    return sum(-(-len(run) // 5) for run in re.findall(r"[a-zA-Z]+|[^\sa-zA-Z]", text))


def split(
    text: str, max_tokens: int = 256, max_seconds: float = 13.0, language: str | None = None
) -> list[str]:
    return split_text(
        text,
        count_tokens=count_tokens,
        max_tokens=max_tokens,
        max_seconds=max_seconds,
        language=language,
    )


def without_space(text: str) -> str:
    return "".join(text.split())
