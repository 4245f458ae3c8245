"""Who the customers of the demo month are, what they call, and how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DEMO_EMAIL = "demo@example.com"


@dataclass(frozen=True, slots=True)
class Mix:
    """Which routes customers of a kind call, by weight, and with which models."""

    routes: Mapping[str, int]
    models: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Customer:
    """`since` is how many days ago the account began; `calls` are those of a weekday."""

    name: str
    company: str
    email: str
    plan: str
    mix: str
    calls: int
    since: int = 44
    keys: Sequence[str] = ("production",)
    note: str = ""


_OPENAI = ("gpt-5-mini", "gpt-5-mini", "gpt-5")
_OPEN_TO_ALL = ("gpt-5-mini",)
_MODELS = {
    "chat": _OPENAI,
    "responses": _OPENAI,
    "embeddings": ("text-embedding-3-small", "text-embedding-3-large"),
    "messages": ("claude-haiku-4-5", "claude-sonnet-4-5"),
    "gemini": ("gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-2.5-pro"),
}

MIXES: Mapping[str, Mix] = {
    "shop": Mix({"generate": 60, "analyze": 25, "chat": 15}, _MODELS),
    "assistant": Mix({"chat": 45, "messages": 30, "responses": 15, "embeddings": 10}, _MODELS),
    "search": Mix({"embeddings": 70, "chat": 20, "gemini": 10}, _MODELS),
    "reports": Mix({"analyze": 70, "gemini": 20, "messages": 10}, _MODELS),
    "trial": Mix({"analyze": 50, "generate": 30, "chat": 20}, {**_MODELS, "chat": _OPEN_TO_ALL}),
}

CUSTOMERS: Sequence[Customer] = (
    Customer("Demo", "Example Studio", DEMO_EMAIL, "pro", "assistant", 16, since=38, keys=()),
    Customer(
        "Maren Holt",
        "Holt & Daughters",
        "maren@holt-daughters.example",
        "enterprise",
        "shop",
        130,
        58,
        ("shop", "back office", "staging"),
        "Invoices go to accounts@; renews in writing each March.",
    ),
    Customer(
        "Tomas Vlk",
        "Northwind Search",
        "tomas@northwind.example",
        "enterprise",
        "search",
        110,
        51,
        ("indexer", "query"),
    ),
    Customer(
        "Aiko Tanabe",
        "Lumen Labs",
        "aiko@lumen-labs.example",
        "enterprise",
        "assistant",
        95,
        47,
        ("assistant", "evaluation"),
        "Runs evaluations on Sundays; asked for a higher hourly limit.",
    ),
    Customer("Ruth Adeyemi", "Ledgerline", "ruth@ledgerline.example", "enterprise", "reports", 70, 44),
    Customer("Jonas Brandt", "Brandt Analytics", "jonas@brandt-analytics.example", "pro", "reports", 22, 55),
    Customer("Sofia Marques", "Atelier Marques", "sofia@atelier-marques.example", "pro", "shop", 14, 52),
    Customer("Daniel Okafor", "Parcelhub", "daniel@parcelhub.example", "pro", "shop", 18, 49, ("live", "test")),
    Customer("Ines Ferrer", "Clínica Ferrer", "ines@clinica-ferrer.example", "pro", "assistant", 11, 46),
    Customer("Noah Lindqvist", "Fjord Media", "noah@fjord-media.example", "pro", "assistant", 15, 45),
    Customer("Priya Raman", "Raman Textiles", "priya@raman-textiles.example", "pro", "shop", 12, 42),
    Customer(
        "Luca Conti",
        "Conti Robotics",
        "luca@conti-robotics.example",
        "pro",
        "search",
        24,
        40,
        note="Card was declined twice; wrote to him.",
    ),
    Customer("Emma Nowak", "Papierwerk", "emma@papierwerk.example", "basic", "shop", 3, 50),
    Customer("Yusuf Demir", "Demir Tours", "yusuf@demir-tours.example", "basic", "assistant", 2, 48),
    Customer("Clara Petit", "Maison Petit", "clara@maison-petit.example", "basic", "shop", 3, 43),
    Customer("Owen Hughes", "Hughes Surveying", "owen@hughes-surveying.example", "basic", "reports", 4, 37),
    Customer("Marta Silva", "Silva Imports", "marta@silva-imports.example", "basic", "shop", 2, 29),
    Customer("Felix Kramer", "Kramer Optik", "felix@kramer-optik.example", "basic", "assistant", 2, 21),
    Customer("Hana Suzuki", "Suzuki Tea", "hana@suzuki-tea.example", "basic", "shop", 3, 15),
    Customer("Peter Novak", "", "peter.novak@mail.example", "free", "trial", 1, 41),
    Customer("Lea Martin", "", "lea.martin@mail.example", "free", "trial", 1, 33),
    Customer("Sam Taylor", "", "sam.taylor@mail.example", "free", "trial", 1, 26),
    Customer("Anna Berg", "", "anna.berg@mail.example", "free", "trial", 1, 18),
    Customer("Kofi Mensah", "", "kofi.mensah@mail.example", "free", "trial", 1, 11),
    Customer("Ivan Petrov", "", "ivan.petrov@mail.example", "free", "trial", 2, 6),
    Customer("Zoe Clark", "", "zoe.clark@mail.example", "free", "trial", 1, 2),
)
