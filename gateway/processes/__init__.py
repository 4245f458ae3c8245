"""How the gateway's processes are started, watched and stopped."""
