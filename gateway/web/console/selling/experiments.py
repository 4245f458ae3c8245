"""Experiments: which there are, how to begin one, and what came of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from starlette.responses import Response

from gateway.web.console.in_process import segment
from gateway.web.console.operator import Operator
from gateway.web.forms import Form
from gateway.web.intervals import Relative, interval_chart
from gateway.web.pages import PageRoutes

pages: PageRoutes[Operator] = PageRoutes()

METRICS = {"sign_ups": "Sign-ups", "conversion": "Paid conversion", "usage": "Credits used", "revenue": "Revenue"}
EXAMPLE = "control 50: pro\nother 50: pro-39"


@pages.get("/experiments")
async def show_experiments(page: Operator) -> Response:
    return await _list(page, Form(defaults={"variants": EXAMPLE}))


@pages.post("/experiments")
async def create_experiment(page: Operator) -> Response:
    form = page.form
    body = {"name": form.required("name"), "variants": list(_variants(form.raw("variants")))}
    created = await page.submit(lambda: page.api.post("/experiments", body, once=page.once))
    if created is None:
        return await _list(page, form)
    return page.visit.redirect(f"/experiments/{created['id']}", "It is a draft: nothing changes until it is started.")


@pages.get("/experiments/{experiment}")
async def show_experiment(page: Operator) -> Response:
    return await _result(page)


@pages.post("/experiments/{experiment}/start")
async def start_experiment(page: Operator) -> Response:
    return await _change(page, "start", "Each account is offered the plans of its variant from now on.")


@pages.post("/experiments/{experiment}/stop")
async def stop_experiment(page: Operator) -> Response:
    body = {"winner": page.form.text("winner")}
    return await _change(page, "stop", "It has ended, and its result stays as it is.", body)


@pages.post("/experiments/{experiment}/delete")
async def delete_experiment(page: Operator) -> Response:
    path = _path(page)
    await page.submit(lambda: page.api.call("DELETE", path))
    if page.form.message:
        return page.visit.redirect(path, page.form.message, tone="problem")
    return page.visit.redirect("/experiments")


async def _list(page: Operator, form: Form) -> Response:
    found = await page.api.get("/experiments", cursor=page.param("cursor"), limit=30)
    return page.render("experiments.html", status=form.status, page=found, form=form)


async def _result(page: Operator) -> Response:
    experiment = await page.api.get(_path(page))
    report = await page.api.get(f"{_path(page)}/report")
    controls = report["variants"][0]["estimates"]
    rows = list(_rows(report))
    return page.render(
        "experiment.html",
        status=page.form.status,
        experiment=experiment,
        report=report,
        chart=interval_chart("Differences to the control, each with its interval of 95 %", rows) if rows else None,
        form=page.form,
        metrics=METRICS,
        of={(each["metric"], each["currency"]): each["value"] for each in controls},
    )


async def _change(page: Operator, what: str, done: str, body: Mapping[str, Any] | None = None) -> Response:
    path = _path(page)
    if await page.submit(lambda: page.api.post(f"{path}/{what}", body)) is None:
        return await _result(page)
    return page.visit.redirect(path, done)


def _path(page: Operator) -> str:
    return f"/experiments/{segment(page.path('experiment'))}"


def _variants(text: str) -> Iterator[dict[str, Any]]:
    """A line for each, `name weight: plan, plan`; a weight that is left out is 1."""
    for line in filter(None, map(str.strip, text.splitlines())):
        named, _, plans = line.partition(":")
        name, _, weight = named.strip().rpartition(" ")
        if not weight.isdecimal():
            name, weight = named.strip(), "1"
        yield {
            "name": name.strip(),
            "weight": int(weight[:12]),
            "plans": [plan.strip() for plan in plans.split(",") if plan.strip()],
        }


def _rows(report: Mapping[str, Any]) -> Iterator[Relative]:
    """The differences of what variants bring, as parts of what the control brings."""
    control = {(each["metric"], each["currency"]): each["value"] for each in report["variants"][0]["estimates"]}
    for each in report["comparisons"]:
        base, interval = control.get((each["metric"], each["currency"])), each["interval"]
        if not base or interval is None or each["metric"] == "sign_ups":
            continue
        name = METRICS[each["metric"]] + (f" in {each['currency']}" if each["currency"] else "")
        edges = (interval["low"] / base, each["difference"] / base, interval["high"] / base)
        yield Relative(f"{each['variant']}: {name}", *edges, each["is_significant"])
