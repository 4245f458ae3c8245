"""How people and systems are told what happened: by mail, and by a signed webhook."""
