"""Product descriptions from templates: the same product always reads the same."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class InvalidProductsError(Exception):
    """The request holds no products that can be described; `param` is where."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Product:
    name: str
    category: str | None = None
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Language:
    """Openings take the name, `category` and `features` what their names say, `joined_by` stands before the last."""

    openings: tuple[str, ...]
    category: str
    features: str
    joined_by: str


LANGUAGES: Mapping[str, Language] = {
    "en": Language(
        ("Meet {name}.", "{name}: made to be used every day.", "{name} does one thing, and does it well."),
        "It belongs in any collection of {category}.",
        "It comes with {features}.",
        " and ",
    ),
    "de": Language(
        ("Das ist {name}.", "{name}: gemacht für jeden Tag.", "{name} kann eines, und das richtig."),
        "Ein Stück aus dem Bereich {category}.",
        "Mit dabei: {features}.",
        " und ",
    ),
    "fr": Language(
        ("Voici {name}.", "{name} : conçu pour tous les jours.", "{name} fait une chose, et la fait bien."),
        "Un incontournable du rayon {category}.",
        "Livré avec {features}.",
        " et ",
    ),
    "es": Language(
        ("Le presentamos {name}.", "{name}: hecho para cada día.", "{name} hace una cosa, y la hace bien."),
        "Imprescindible en la categoría {category}.",
        "Incluye {features}.",
        " y ",
    ),
    "it": Language(
        ("Ecco {name}.", "{name}: fatto per tutti i giorni.", "{name} fa una cosa sola, e la fa bene."),
        "Un classico della categoria {category}.",
        "Comprende {features}.",
        " e ",
    ),
}


def products_of(body: object) -> tuple[Product, ...]:
    """The products of a request: `{"products": ["name", {"name": …, "category": …, "features": […]}]}`.

    Raises InvalidProductsError for anything else.
    """
    listed = body.get("products") if isinstance(body, dict) else None
    if not isinstance(listed, list) or not listed:
        raise InvalidProductsError("products must be a list of at least one product.", "products")
    return tuple(_product(entry, f"products[{index}]") for index, entry in enumerate(listed))


def language_of(body: object) -> str:
    """The language code of a request, English if there is none. Raises InvalidProductsError for an unknown one."""
    code = body.get("language_code", "en") if isinstance(body, dict) else "en"
    if not isinstance(code, str) or code not in LANGUAGES:
        raise InvalidProductsError(f"language_code must be one of {', '.join(LANGUAGES)}.", "language_code")
    return code


def describe(product: Product, language_code: str) -> str:
    """A few sentences on the product in a language of LANGUAGES."""
    language = LANGUAGES[language_code]
    opening = language.openings[zlib.crc32(product.name.encode()) % len(language.openings)]
    sentences = [opening.replace("{name}", product.name)]
    if product.category:
        sentences.append(language.category.replace("{category}", product.category))
    if product.features:
        sentences.append(language.features.replace("{features}", _joined(product.features, language.joined_by)))
    return " ".join(sentences)


def _product(entry: object, where: str) -> Product:
    fields = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, dict):
        raise InvalidProductsError(f"{where} must be a name or an object with a name.", where)
    name, category, features = fields.get("name"), fields.get("category"), fields.get("features", [])
    if not isinstance(name, str) or not name.strip():
        raise InvalidProductsError(f"{where}.name must be text that is not empty.", f"{where}.name")
    if category is not None and not isinstance(category, str):
        raise InvalidProductsError(f"{where}.category must be text.", f"{where}.category")
    if not isinstance(features, list) or not all(isinstance(feature, str) for feature in features):
        raise InvalidProductsError(f"{where}.features must be a list of texts.", f"{where}.features")
    return Product(name.strip(), category, tuple(features))


def _joined(parts: Sequence[str], joined_by: str) -> str:
    *first, last = parts
    return f"{', '.join(first)}{joined_by}{last}" if first else last
