"""What an operator does to an account: each by the API, and with a reason that the audit log keeps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.responses import Response

from gateway.web.console.account import account_page, id_in_path
from gateway.web.console.in_process import segment
from gateway.web.console.operator import Operator
from gateway.web.pages import PageRoutes

pages: PageRoutes[Operator] = PageRoutes()


@pages.post("/accounts/{user_id}/credits")
async def give_credits(page: Operator) -> Response:
    form, user_id = page.form, id_in_path(page)
    amount = form.whole("amount")
    is_taken = isinstance(amount, int) and amount < 0
    path = f"/users/{user_id}/credits/{'adjust' if is_taken else 'grant'}"
    body = {"amount": amount, "reason": form.required("reason")}
    return await _act(page, "credits", lambda: page.api.post(path, body, once=page.once), "The balance has changed.")


@pages.post("/accounts/{user_id}/plan")
async def change_plan(page: Operator) -> Response:
    form, user_id = page.form, id_in_path(page)
    user = await page.api.get(f"/users/{user_id}")
    current, plan_id = user["subscription"], form.required("plan_id")
    if current is None:
        body: dict[str, Any] = {"user_id": user_id, "plan_id": plan_id, "reason": form.required("reason")}
        return await _act(page, "plan", lambda: page.api.post("/subscriptions", body, once=page.once), "It has begun.")
    body = {"plan_id": plan_id, "at_period_end": form.is_checked("at_period_end"), "reason": form.required("reason")}
    path = f"/subscriptions/{current['id']}/change"
    return await _act(page, "plan", lambda: page.api.post(path, body, once=page.once), _plan_change)


def _plan_change(changed: Any) -> str:
    if changed["confirmation_url"] is None:
        later = changed["next_plan_id"]
        return "The plan has changed." if later is None else f"The plan {later} begins with the next period."
    return f"The plan changes once the customer has confirmed the payment at {changed['confirmation_url']}"


@pages.post("/accounts/{user_id}/pause")
async def pause(page: Operator) -> Response:
    return await _change_pause(page, "pause", "The subscription is paused: its next call is refused.")


@pages.post("/accounts/{user_id}/resume")
async def resume(page: Operator) -> Response:
    return await _change_pause(page, "resume", "The subscription goes on.")


@pages.post("/accounts/{user_id}/suspend")
async def suspend(page: Operator) -> Response:
    return await _set_status(page, "suspend", "The account is suspended: its next call is refused.")


@pages.post("/accounts/{user_id}/reactivate")
async def reactivate(page: Operator) -> Response:
    return await _set_status(page, "reactivate", "The account is active again.")


@pages.post("/accounts/{user_id}/note")
async def save_note(page: Operator) -> Response:
    """The note is a member of the metadata, which keeps its others."""
    user_id = id_in_path(page)
    user = await page.api.get(f"/users/{user_id}")
    present = str(user["metadata"].get("note") or "")
    if page.form.raw("was").splitlines() != present.splitlines():
        page.form.message = f"Somebody has changed the note meanwhile. It says now: {present or 'nothing'}"
        return await account_page(page, status=409, action="note")
    body = {"metadata": {**user["metadata"], "note": page.form.raw("note").strip()}}
    call = lambda: page.api.call("PATCH", f"/users/{user_id}", body=body)  # noqa: E731 - read once
    return await _act(page, "note", call, "The note is saved.")


@pages.post("/accounts/{user_id}/keys/{key_id}/rotate")
async def rotate_key(page: Operator) -> Response:
    """The answer shows the new key, this once."""
    form = page.form
    body = {"grace_seconds": form.whole("grace_seconds") or 0, "reason": form.required("reason")}
    path = await _path_of_key(page)
    issued = await page.submit(lambda: page.api.post(f"{path}/rotate", body, once=page.once))
    return await account_page(page, status=form.status, action="keys", issued=issued)


@pages.post("/accounts/{user_id}/keys/{key_id}/revoke")
async def revoke_key(page: Operator) -> Response:
    path = await _path_of_key(page)
    if not await page.prove():
        return await account_page(page, status=422, action="keys")
    call = lambda: page.api.post(f"{path}/revoke", _reason(page))  # noqa: E731 - read once
    return await _act(page, "keys", call, "The key is revoked for good.")


@pages.post("/accounts/{user_id}/sign-in-as")
async def sign_in_as(page: Operator) -> Response:
    """Shows a link that is good once: forms of the console lead to no other site."""
    body = {"user_id": id_in_path(page), "reason": page.form.required("reason") or None}
    if body["reason"] is None:
        page.form.refuse("reason", "required")
        return await account_page(page, status=422, action="enter")
    session = await page.submit(lambda: page.api.post("/portal-sessions", body))
    return await account_page(page, status=page.form.status, action="enter", portal=session)


async def _set_status(page: Operator, verb: str, done: str) -> Response:
    path = f"/users/{id_in_path(page)}/{verb}"
    return await _act(page, "status", lambda: page.api.post(path, _reason(page)), done)


async def _change_pause(page: Operator, verb: str, done: str) -> Response:
    user = await page.api.get(f"/users/{id_in_path(page)}")
    if user["subscription"] is None:
        return await account_page(page, status=409, action="pause")
    path = f"/subscriptions/{user['subscription']['id']}/{verb}"
    return await _act(page, "pause", lambda: page.api.post(path, _reason(page)), done)


async def _path_of_key(page: Operator) -> str:
    """Raises HTTPException(404) for a key that is not the account's, and ApiRefused for one that nobody has."""
    path = f"/keys/{segment(page.path('key_id'))}"
    if UUID((await page.api.get(path))["user_id"]) != UUID(id_in_path(page)):
        raise HTTPException(404)
    return path


def _reason(page: Operator) -> dict[str, Any]:
    return {"reason": page.form.required("reason")}


async def _act(
    page: Operator, action: str, call: Callable[[], Awaitable[Any]], done: str | Callable[[Any], str]
) -> Response:
    """Back to the account's page; with the form as it was sent where the API refuses."""
    answer = await page.submit(call)
    if page.form.errors or page.form.message:
        return await account_page(page, status=page.form.status, action=action)
    return page.visit.redirect(f"/accounts/{id_in_path(page)}", done if isinstance(done, str) else done(answer))
