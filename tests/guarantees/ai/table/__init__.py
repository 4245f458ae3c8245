"""The table of calls to AI APIs: API, form, encoding, size, who asks for usage, who leaves."""

from tests.guarantees.ai.table import anthropic, gemini, openai_chat, openai_media, others
from tests.guarantees.ai.table.row import Row, names

ROWS = [*openai_chat.ROWS, *openai_media.ROWS, *anthropic.ROWS, *gemini.ROWS, *others.ROWS]

__all__ = ["ROWS", "Row", "names"]
