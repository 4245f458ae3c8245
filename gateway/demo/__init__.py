"""The bundled upstream, for `gateway demo` and for tests: it imports nothing of the gateway but its clock."""
