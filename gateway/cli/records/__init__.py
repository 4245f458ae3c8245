"""Groups of commands on what the database records: `gateway users create`, `gateway keys revoke`."""
