from __future__ import annotations

import pytest

from gateway.demo.descriptions import (
    LANGUAGES,
    InvalidProductsError,
    Product,
    describe,
    language_of,
    products_of,
)


@pytest.mark.parametrize("language", LANGUAGES)
def test_description_names_every_known_fact_of_a_product(language: str) -> None:
    said = describe(Product("{Lamp} 3000", "lights", ("a switch", "a bulb", "a cord")), language)

    assert all(part in said for part in ("{Lamp} 3000", "lights", "a switch, a bulb", "a cord"))


def test_languages_have_descriptions_of_their_own() -> None:
    assert len({describe(Product("Lamp"), language) for language in LANGUAGES}) == len(LANGUAGES)


def test_products_are_names_or_objects() -> None:
    found = products_of({"products": [" Lamp ", {"name": "Mug", "category": "kitchen", "features": ["a handle"]}]})

    assert found == (Product("Lamp"), Product("Mug", "kitchen", ("a handle",)))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ([], "products"),
        ({}, "products"),
        ({"products": []}, "products"),
        ({"products": 5}, "products"),
        ({"products": ["a", 5]}, "products[1]"),
        ({"products": [{}]}, "products[0].name"),
        ({"products": [" "]}, "products[0].name"),
        ({"products": [{"name": "a", "category": 5}]}, "products[0].category"),
        ({"products": [{"name": "a", "features": "b"}]}, "products[0].features"),
    ],
)
def test_malformed_products_are_refused_by_field(body: object, param: str) -> None:
    with pytest.raises(InvalidProductsError) as caught:
        products_of(body)

    assert caught.value.param == param


def test_unknown_language_is_refused_with_the_known_ones() -> None:
    assert language_of({}) == "en"
    with pytest.raises(InvalidProductsError, match="en, de, fr, es, it"):
        language_of({"language_code": "tlh"})
