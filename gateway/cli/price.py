"""`gateway price`: what a call to a model costs, class by class, by the price lists of the configuration."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

import typer

from gateway.cli.console import AsJson, ConfigFile, load_config, print_object, print_rows
from gateway.config import Config
from policies.access.authorization import has_feature
from policies.billing.money import CreditValue, plain
from policies.pricing.forecasts import NO_PLAN
from policies.pricing.model_costs import BYTES_PER_TOKEN, Cost, cost
from policies.pricing.price_list import ModelPrice, PriceList
from policies.pricing.quotes import ModelRequest, estimated_hold
from policies.pricing.units import PriceUnit
from policies.usage.counts import MAX_COUNT, Usage, UsageClass

app = typer.Typer()

NEAREST = 5  # names that an unknown model is compared with
Tokens = Annotated[int | None, typer.Option(min=0, max=MAX_COUNT, metavar="N", help="Tokens of this class.")]


@dataclass(frozen=True, slots=True)
class Asked:
    """A call to a model: what it uses, and what its request says. `body_bytes` None is an average for its input."""

    model: str
    usage: Usage
    max_output: int | None
    body_bytes: int | None


@app.command()
def price(
    model: Annotated[str, typer.Argument(help="The model, as a request names it.")],
    input: Tokens = None,  # noqa: A002 - typer names the option by it
    cached_input: Tokens = None,
    cache_write: Tokens = None,
    cache_write_1h: Annotated[int | None, typer.Option("--cache-write-1h", min=0, max=MAX_COUNT, metavar="N")] = None,
    input_audio: Tokens = None,
    input_image: Tokens = None,
    output: Tokens = None,
    reasoning: Tokens = None,
    output_audio: Tokens = None,
    output_image: Tokens = None,
    seconds: Annotated[str | None, typer.Option(help="Where the list prices seconds.")] = None,
    cost_usd: Annotated[str | None, typer.Option(help="Where the list prices what the provider asks.")] = None,
    max_output: Annotated[
        int | None, typer.Option(min=0, max=MAX_COUNT, help="Output that the request allows.")
    ] = None,
    body_bytes: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_COUNT, help="Size of the request; 4 bytes a token of input if not given."),
    ] = None,
    listed: Annotated[str | None, typer.Option("--list", help="The price list, where several have the model.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Explain what a call costs, class by class. Counts are inclusive: --cached-input is part of --input."""
    given = locals()
    counts = {kind: given[kind] for kind in UsageClass if given[kind] is not None}
    usage = Usage(counts, _decimal("--seconds", seconds), _decimal("--cost-usd", cost_usd))
    settings = load_config(config, persist_secrets=False, roles=())
    found = _find(price_lists(settings), model, listed)
    explained = explain(settings, found, Asked(model, usage, max_output, body_bytes))
    if as_json:
        typer.echo(json.dumps(explained))
        return
    _print(explained)


def price_lists(config: Config) -> dict[str, PriceList]:
    """The price lists that routes use, by name."""
    return {route.price.name: route.price for route in config.routes if isinstance(route.price, PriceList)}


def explain(config: Config, listed: PriceList, asked: Asked) -> dict[str, Any]:
    """The price of a call and how it came about. Raises BadParameter for a model that the list does not offer."""
    found = listed.find(asked.model)
    if found is None:
        raise _unknown(asked.model, {listed.name: listed})
    charged = cost(listed, found, asked.usage)
    input_count = asked.usage.counts.get(UsageClass.INPUT, 0)
    return {
        "model": asked.model,
        "list": listed.name,
        "priced_as": listed.name_for(asked.model) or "unknown_model",
        "per": listed.unit.phrase(listed.unit_size),
        "above": found.mark_at(input_count) if listed.unit is PriceUnit.TOKEN else None,
        "feature": found.feature,
        "plans_with_feature": _plans_with(config, found.feature),
        "classes": _classes(charged),
        "minimum": listed.minimum,
        "maximum": listed.maximum,
        "credits": charged.credits,
        "shown_as": _shown(config.credits.money, charged.credits),
        "flags": [str(flag) for flag in charged.flags],
        "hold": _hold(listed, found, asked, input_count),
    }


def _classes(charged: Cost) -> list[dict[str, Any]]:
    return [
        {
            "class": str(line.kind),
            "count": line.count if isinstance(line.count, int) else _digits(line.count),
            "price": _digits(line.rate),
            "credits": _digits(line.credits),
        }
        for line in charged.lines
    ]


def _hold(listed: PriceList, found: ModelPrice, asked: Asked, input_count: int) -> int:
    """What a caller whose plan says nothing of output would have set aside."""
    body_bytes = input_count * BYTES_PER_TOKEN if asked.body_bytes is None else asked.body_bytes
    return estimated_hold(listed, found, NO_PLAN, ModelRequest(asked.model, asked.max_output, body_bytes))


def _plans_with(config: Config, feature: str | None) -> list[str]:
    return [] if feature is None else [plan.id for plan in config.plans if has_feature(plan.features.get(feature))]


def _shown(money: CreditValue | None, credits: int) -> dict[str, str] | None:
    return None if money is None else {"currency": money.currency, "amount": plain(money.fine_amount(credits))}


def _find(lists: Mapping[str, PriceList], model: str, name: str | None) -> PriceList:
    """The list that is named, else the one that names the model, else the one that prices all."""
    if name is not None:
        if name not in lists:
            known = ", ".join(sorted(lists)) or "none"
            raise typer.BadParameter(f"no route uses a price list {name!r}; lists in use: {known}", param_hint="--list")
        return lists[name]
    holding = [each for each in lists.values() if each.name_for(model) not in (None, "*")]
    holding = holding or [each for each in lists.values() if each.find(model) is not None]
    if not holding:
        raise _unknown(model, lists)
    if len(holding) > 1:
        names = ", ".join(sorted(each.name for each in holding))
        raise typer.BadParameter(f"several lists have {model!r}: {names}; choose one", param_hint="--list")
    return holding[0]


def _unknown(model: str, lists: Mapping[str, PriceList]) -> typer.BadParameter:
    known = sorted({name for each in lists.values() for name in each.models})
    near = difflib.get_close_matches(model, known, NEAREST, cutoff=0.4) or known[:NEAREST]
    nearest = f"the nearest names are {', '.join(near)}" if near else "no route has a price list"
    return typer.BadParameter(f"{model!r} is not offered; {nearest}", param_hint="MODEL")


def _decimal(option: str, text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        number = Decimal(text)
    except ArithmeticError:
        number = Decimal(-1)
    if not number.is_finite() or not 0 <= number <= MAX_COUNT:
        raise typer.BadParameter(f"{text!r} is not a number from 0", param_hint=option)
    return number


def _digits(number: Decimal) -> str:
    return f"{number.normalize():f}"


def _print(explained: Mapping[str, Any]) -> None:
    print_rows(explained["classes"], as_json=False)
    typer.echo()
    fields = {name: value for name, value in explained.items() if name != "classes" and value not in (None, [])}
    for name in ("plans_with_feature", "flags"):
        if name in fields:
            fields[name] = ", ".join(fields[name])
    if "shown_as" in fields:
        fields["shown_as"] = f"{fields['shown_as']['amount']} {fields['shown_as']['currency']}"
    print_object({name.replace("_", " "): value for name, value in fields.items()}, as_json=False)
