// What pages do besides working without it: copying, dialogs, parts that refresh. Everything here is an improvement of
// markup that works by itself, and a failure leaves the page as it was.

const parser = new DOMParser();
// So long a form that was sent is not sent again. No event tells of a load that the browser's own button has stopped.
const SENT_MILLISECONDS = 5000;

async function load(url, options = {}) {
  const response = await fetch(url, {
    ...options,
    headers: { "x-partial": "1", ...options.headers },
    credentials: "same-origin",
  });
  if (response.redirected || !(response.headers.get("content-type") ?? "").startsWith("text/html")) return null;
  return parser.parseFromString(await response.text(), "text/html");
}

function announce(text) {
  const status = document.getElementById("announcements");
  if (status) status.textContent = text;
}

// Puts the element of the same id from another rendering of the page in place of this one.
function exchange(id, fetched) {
  const before = document.getElementById(id);
  const after = fetched?.getElementById(id);
  if (!before || !after) return false;
  const focused = before.contains(document.activeElement) ? document.activeElement.id : "";
  for (const details of before.querySelectorAll("details[open][id]")) after.querySelector(`#${details.id}`)?.setAttribute("open", "");
  before.replaceWith(after);
  improve(after);
  if (focused) document.getElementById(focused)?.focus();
  return true;
}

async function showPart(url, id, { keepsHistory = false } = {}) {
  const element = document.getElementById(id);
  element?.setAttribute("aria-busy", "true");
  try {
    if (!exchange(id, await load(url))) throw new Error("no such part");
    if (keepsHistory) history.replaceState(null, "", url);
    announce("Updated.");
  } catch {
    element?.removeAttribute("aria-busy");
    location.assign(url);
  }
}

function urlOf(form) {
  const query = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (value !== "") query.append(name, value);
  const url = new URL(form.action, location.href);
  url.search = query.toString();
  return url.href;
}

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  const text = (source?.value ?? source?.textContent ?? "").trim();
  try {
    await navigator.clipboard.writeText(text);
    announce("Copied.");
    const label = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1500);
  } catch {
    getSelection()?.selectAllChildren(source);
    announce("Press Ctrl+C to copy.");
  }
}

// A link to a page whose only purpose is a form: the form opens over this page.
async function openDialog(link) {
  try {
    const main = (await load(link.href))?.querySelector("main [data-dialog-content]");
    if (!main) throw new Error("no form");
    const dialog = document.createElement("dialog");
    dialog.append(main);
    const heading = dialog.querySelector("h1");
    if (heading) {
      heading.id ||= "dialog-title";
      dialog.setAttribute("aria-labelledby", heading.id);
    }
    dialog.addEventListener("close", () => { dialog.remove(); link.focus(); });
    dialog.addEventListener("click", (event) => {
      if (event.target.closest("[data-close]")) { event.preventDefault(); dialog.close(); }
    });
    document.body.append(dialog);
    improve(dialog);
    dialog.showModal();
  } catch {
    location.assign(link.href);
  }
}

async function refresh(element) {
  if (document.hidden || element.contains(document.activeElement)) return;
  try {
    exchange(element.id, await load(location.href));
  } catch {
    // The next turn tries again.
  }
}

function improve(root) {
  for (const button of root.querySelectorAll("button[data-copy]")) button.hidden = false;
  for (const link of root.querySelectorAll("a[data-follow]")) location.assign(link.href);
  const live = root.matches?.("[data-live]") ? [root] : root.querySelectorAll("[data-live]");
  for (const element of live) {
    const { id } = element;
    setTimeout(function tick() {
      const present = document.getElementById(id);
      if (!present || present !== element) return;
      refresh(present).finally(() => { if (document.getElementById(id) === element) setTimeout(tick, element.dataset.live * 1000); });
    }, element.dataset.live * 1000);
  }
}

document.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  const button = event.target.closest("button[data-copy]");
  if (button) copy(button);
  const dialog = event.target.closest("a[data-dialog]");
  if (dialog) { event.preventDefault(); openDialog(dialog); }
  const part = event.target.closest("a[data-part]");
  if (part) { event.preventDefault(); showPart(part.href, part.dataset.part, { keepsHistory: true }); }
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method === "get" && form.dataset.part) {
    event.preventDefault();
    showPart(urlOf(form), form.dataset.part, { keepsHistory: true });
  } else if (form.method === "post") {
    if (event.timeStamp - form.dataset.sent < SENT_MILLISECONDS) event.preventDefault();
    else form.dataset.sent = event.timeStamp;
  }
});

function letSendAgain() {
  for (const form of document.forms) delete form.dataset.sent;
}

document.addEventListener("change", (event) => {
  const form = event.target.form;
  if (form?.dataset.part && event.target.matches("select, input[type=date], input[type=checkbox]")) form.requestSubmit();
});

// Escape stops the load of the answer.
addEventListener("keydown", (event) => {
  if (event.key === "Escape") letSendAgain();
});

addEventListener("pageshow", (event) => {
  if (event.persisted) letSendAgain();
});

document.documentElement.classList.add("scripted");
improve(document);
document.querySelector("[data-focus]")?.focus();
