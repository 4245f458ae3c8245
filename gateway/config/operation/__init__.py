"""Sections of gateway.yaml that operators look after."""
