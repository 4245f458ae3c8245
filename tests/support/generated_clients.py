"""Clients that openapi-python-client makes of a document."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from openapi_python_client import generate
from openapi_python_client.config import Config, ConfigFile, MetaType
from starlette.types import ASGIApp


class GeneratedClient:
    """A generated package, and its client of an application in this process."""

    def __init__(self, package: str, app: ASGIApp, token: str) -> None:
        self._package = package
        transport = httpx.ASGITransport(app)
        self._client = importlib.import_module(package).AuthenticatedClient(
            base_url="http://localhost", token=token, httpx_args={"transport": transport}
        )

    def model(self, name: str) -> Any:
        return getattr(importlib.import_module(f"{self._package}.models"), name)

    async def call(self, operation: str, **given: Any) -> Any:
        """The parsed response of an operation, named as `users.get_user`."""
        return await importlib.import_module(f"{self._package}.api.{operation}").asyncio(client=self._client, **given)


@contextmanager
def generated_client(document: dict[str, Any], app: ASGIApp, *, token: str, folder: Path) -> Iterator[GeneratedClient]:
    """Fails with each warning of the generator, which leaves out what it cannot make sense of."""
    name = f"client_{folder.name.replace('-', '_')}"
    source = folder / "openapi.json"
    source.write_text(json.dumps(document))
    # It knows no other content that is bytes.
    settings = ConfigFile(post_hooks=[], content_type_overrides={"application/gzip": "application/octet-stream"})
    config = Config.from_sources(settings, MetaType.NONE, source, "utf-8", True, folder / name)
    complaints = [f"{each.header}: {each.detail}" for each in generate(config=config)]
    assert not complaints, "\n".join(complaints)
    operations = sum(len(methods) for methods in document["paths"].values())
    assert len([path for path in (folder / name / "api").glob("*/*.py") if path.name != "__init__.py"]) == operations
    sys.path.insert(0, str(folder))
    try:
        yield GeneratedClient(name, app, token)
    finally:
        sys.path.remove(str(folder))
        for loaded in [each for each in sys.modules if each.partition(".")[0] == name]:
            del sys.modules[loaded]
