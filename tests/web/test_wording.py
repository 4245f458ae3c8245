"""What pages say of fields that the API refuses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

import gateway.web
from gateway.web.forms import Form
from gateway.web.wording import LABELS, sentence

TEMPLATES = Path(gateway.web.__file__).parent / "templates"


class Terms(BaseModel):
    name: str = Field(default="a", min_length=1, max_length=3)
    code: str = Field(default="a", pattern="^[a-z]$")
    count: int = Field(default=1, ge=1, le=9)
    share: float = Field(default=0.5, gt=0, lt=1)
    owner: UUID | None = None
    rows: list[int] = Field(default=[1], min_length=1)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"name": ""}, "Required."),
        ({"name": "long"}, "Must have at most 3 characters."),
        ({"code": "1"}, "Is not written as it has to be."),
        ({"count": "many"}, "Must be a whole number."),
        ({"count": 0}, "Must be 1 or greater."),
        ({"count": 10}, "Must be 9 or less."),
        ({"share": "half"}, "Must be a number."),
        ({"share": 0}, "Must be greater than 0."),
        ({"share": 1}, "Must be less than 1."),
        ({"owner": "ada"}, "Must be an id."),
        ({"rows": []}, "Required."),
    ],
)
async def test_a_form_tells_people_what_is_wrong(values: Mapping[str, object], told: str) -> None:
    async def call() -> Terms:
        return Terms.model_validate(values)

    form = Form()
    assert await form.submit(call) is None
    assert list(form.errors.values()) == [told]


def test_what_the_api_says_in_plain_words_stays() -> None:
    assert sentence("must be in the future") == "Must be in the future."


def test_errors_name_fields_as_their_forms_do() -> None:
    written = "\n".join(path.read_text() for path in TEMPLATES.rglob("*.html"))
    assert [text for text in LABELS.values() if f'"{text}"' not in written] == []


def test_an_error_stands_at_the_field_that_was_filled_in() -> None:
    form = Form({"value": ["400"]})
    form.refuse("percent_off", "must be 100 or less")
    form.blame({"percent_off": "value"})
    assert form.error("value") == "Must be 100 or less."


def test_whole_number_may_be_grouped_but_has_no_fraction() -> None:
    read = {"1,250": 1250, "-250": -250, "1 000": 1000, "1,00,000": 100_000, "12,5": "12,5", "0,5": "0,5", "1.5": "1.5"}
    assert {written: Form({"n": [written]}).whole("n") for written in read} == read
