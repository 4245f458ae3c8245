"""Readers by the name that a price gives."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.proxy.metering.readers.anthropic import ANTHROPIC
from gateway.proxy.metering.readers.bedrock import BEDROCK
from gateway.proxy.metering.readers.gemini import GEMINI
from gateway.proxy.metering.readers.mcp import MCP
from gateway.proxy.metering.readers.ollama import OLLAMA
from gateway.proxy.metering.readers.openai import OPENAI
from gateway.proxy.metering.readers.reader import Reader

READERS: Mapping[str, Reader] = {reader.name: reader for reader in (OPENAI, ANTHROPIC, GEMINI, BEDROCK, OLLAMA, MCP)}
