"""Pages for people: server-rendered, complete without JavaScript, made of the same functions as the APIs."""
