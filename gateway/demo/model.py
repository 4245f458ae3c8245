"""The model behind every API of the demo: what it answers to a prompt, and how many tokens both are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

# A token is a word or a mark, with the blanks before it: joined again, the tokens are the text.
_TOKEN = re.compile(r"\s*(?:\w+|[^\w\s])|\s+\Z")
_QUOTED_WORDS = 24


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation; `role` is the word of the API that it came by."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked, in any API. `max_tokens` None is no limit."""

    model: str
    turns: tuple[Turn, ...]
    max_tokens: int | None = None

    @property
    def digest(self) -> str:
        """Tells one prompt from another, for the ids of answers."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Answer:
    """The tokens of an answer, and of the prompt that led to it. `is_cut` says that the limit ended it."""

    tokens: tuple[str, ...]
    is_cut: bool
    prompt_tokens: int

    @property
    def text(self) -> str:
        return "".join(self.tokens)


def tokens_of(text: str) -> tuple[str, ...]:
    """The tokens of a text; joined, they are the text."""
    return tuple(_TOKEN.findall(text))


def generate(prompt: Prompt) -> Answer:
    """The same answer to the same prompt, always."""
    tokens = tokens_of(_reply(prompt.turns))
    is_cut = prompt.max_tokens is not None and len(tokens) > prompt.max_tokens
    return Answer(tokens[: prompt.max_tokens], is_cut, count([turn.text for turn in prompt.turns]))


def count(texts: Sequence[str]) -> int:
    """The tokens of several texts together."""
    return sum(len(tokens_of(text)) for text in texts)


def _reply(turns: Sequence[Turn]) -> str:
    asked = next((turn.text for turn in reversed(turns) if turn.role == "user"), "")
    words = asked.split()
    if not words:
        return "You have not asked anything yet. Send a message with the role user, and I will answer it."
    quoted = " ".join(words[:_QUOTED_WORDS]) + ("…" if len(words) > _QUOTED_WORDS else "")
    return (
        f"You wrote {len(words)} word{'s' * (len(words) != 1)}: “{quoted}” "
        "I am the demo upstream: I answer from a template, count my words, and let the gateway charge for them."
    )
