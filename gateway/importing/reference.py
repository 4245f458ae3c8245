"""`python -m gateway.importing.reference` writes docs/reference/import.md: what a mapping file may name."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.importing.mapping import PRESETS, load_preset
from gateway.importing.sections import SECTIONS, Section

_HEAD = """\
# What an import can fill

The fields of each section of a [mapping file](../import.md#mapping-files), in the order of their import, and the
tables that the presets read. Written by `make reference`."""

_ABOUT = {
    Section.PRODUCTS: "What plans belong to.",
    Section.PLANS: "What subscriptions are to. Left out: other sections name the plans of this gateway by id or name.",
    Section.USERS: "The accounts, to which all that follows belongs.",
    Section.SUBSCRIPTIONS: "Current and ended ones; an account has one current one.",
    Section.CREDITS: "Balances, one row for each user.",
    Section.KEYS: "API keys.",
    Section.PAYMENTS: "Payments of the past.",
    Section.USAGE: "Calls of the past.",
}


def markdown() -> str:
    return "\n".join((_HEAD, *_sections(), *_presets())) + "\n"


def _sections() -> Iterator[str]:
    for section, fields in SECTIONS.items():
        yield f"\n## {section}\n\n{_ABOUT[section]}\n\n| field | meaning |\n|---|---|"
        for name, target in fields.items():
            refers = f" The key of a row of `{target.refers_to}`." if target.refers_to else ""
            yield f"| `{name}`{' (required)' if target.is_required else ''} | {target.about}{refers} |"


def _presets() -> Iterator[str]:
    yield f"\n## Presets\n\n| section | {' | '.join(f'`{name}`' for name in PRESETS)} |"
    yield "|---" * (1 + len(PRESETS)) + "|"
    tables = [load_preset(name).tables() for name in PRESETS]
    for section in SECTIONS:
        cells = [f"`{found[section].table}`" if section in found else "" for found in tables]
        yield f"| {section} | {' | '.join(cells)} |"


if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201 - its output is the page
